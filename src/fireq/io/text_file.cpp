#include "fireq/io/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fireq/base/error.h"
#include "fireq/io/file_descriptor.h"

namespace fireq {

std::string ReadTextFile(const std::filesystem::path& path, int64_t max_bytes) {
  const FileDescriptor file = OpenForReading(path);
  const int64_t size = RegularFileSize(file, path);
  FIREQ_CHECK(size <= max_bytes, kUnsupported, path.string(), ": ", size,
              " bytes are above the limit of ", max_bytes);
  std::string text(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    FIREQ_CHECK(got >= 0, kIo, path.string(), ": cannot read at byte ", done, ": ",
                std::strerror(errno));
    FIREQ_CHECK(got > 0, kIo, path.string(), ": ended at byte ", done, " of ", size,
                " while being read");
    done += static_cast<size_t>(got);
  }
  return text;
}

}  // namespace fireq
