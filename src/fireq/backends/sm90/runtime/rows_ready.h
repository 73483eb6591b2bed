// Rows that a kernel may read before the one in front of it, which writes them, has ended.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fireq::sm90 {

// Rows [0, before) of what a kernel writes: a block of `rows` is there once its count is `full`.
// One CTA reads each row and then adds one; a block's last sets its count back to zero. The other
// rows are there when the kernel in front has ended, and of them there is at least one: so the
// reader does not end before the writer has. What the reader writes the writer must not read.
struct RowsReady {
  uint32_t* counts = nullptr;
  uint32_t full = 0;
  int rows = 1;
  int64_t before = 0;

  size_t count_bytes() const { return static_cast<size_t>(before / rows) * sizeof(uint32_t); }
};

}  // namespace fireq::sm90
