// One exception type for everything a caller, a file or a device can cause.
//
// FIREQ_CHECK(cond, code, parts...) throws Error when `cond` is false; `parts` are concatenated and
// must hold the values and the name of the tensor, the JSON path or the file. FIREQ_DCHECK is for
// our own mistakes and vanishes in release builds. Nothing in the library prints, exits or aborts.
#pragma once

#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fireq {

// What went wrong, for programs; ExitCode() maps each to what `fireq` exits with.
enum class ErrorCode {
  kInvalidArgument,  // a caller's value is out of range or contradicts another
  kShapeMismatch,    // two tensors do not fit each other
  kUnsupported,      // well-formed, but FireQ has no support for it
  kCorrupt,          // a file's bytes contradict its format
  kNotFound,         // a file, tensor, option or model does not exist
  kIo,               // the operating system refused (full disk, permissions)
  kOutOfMemory,      // host or device memory
  kCuda,             // a CUDA call failed; the engine that saw it is poisoned
  kCancelled,        // stopped on request, or because another GPU that shares the work has failed
  kInternal,         // a bug of ours
};

const char* ErrorCodeName(ErrorCode code);

// Process exit code of the `fireq` program for `code`; 0 is never returned.
int ExitCode(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

namespace internal {
inline void AppendPart(std::string& out, std::string_view part) { out += part; }
inline void AppendPart(std::string& out, const char* part) { out += part; }
inline void AppendPart(std::string& out, char part) { out += part; }
inline void AppendPart(std::string& out, bool part) { out += part ? "true" : "false"; }
template <std::integral T>
void AppendPart(std::string& out, T part) {
  out += std::to_string(part);
}
void AppendPart(std::string& out, double part);
inline void AppendPart(std::string& out, float part) { AppendPart(out, double{part}); }
}  // namespace internal

// Concatenates strings and numbers; floating point as %.9g.
template <class... Parts>
std::string StrCat(const Parts&... parts) {
  std::string out;
  (internal::AppendPart(out, parts), ...);
  return out;
}

[[noreturn]] inline void Throw(ErrorCode code, const std::string& message) {
  throw Error(code, message);
}

}  // namespace fireq

#define FIREQ_CHECK(cond, code, ...)                                          \
  do {                                                                        \
    if (!(cond)) [[unlikely]]                                                 \
      ::fireq::Throw(::fireq::ErrorCode::code, ::fireq::StrCat(__VA_ARGS__)); \
  } while (false)

#ifdef NDEBUG
#define FIREQ_DCHECK(cond) static_cast<void>(0)
#else
#define FIREQ_DCHECK(cond) FIREQ_CHECK(cond, kInternal, __FILE__, ":", __LINE__, ": ", #cond)
#endif
