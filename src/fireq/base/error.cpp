#include "fireq/base/error.h"

#include "fireq/base/number_text.h"

namespace fireq {

namespace internal {
void AppendPart(std::string& out, double part) { out += GeneralText(part, 9); }
}  // namespace internal

const char* ErrorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid argument";
    case ErrorCode::kShapeMismatch:
      return "shape mismatch";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kCorrupt:
      return "corrupt input";
    case ErrorCode::kNotFound:
      return "not found";
    case ErrorCode::kIo:
      return "i/o error";
    case ErrorCode::kOutOfMemory:
      return "out of memory";
    case ErrorCode::kCuda:
      return "CUDA error";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kInternal:
      return "internal error";
  }
  return "unknown error";
}

int ExitCode(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kShapeMismatch:
      return 2;
    case ErrorCode::kUnsupported:
      return 3;
    case ErrorCode::kCorrupt:
      return 4;
    case ErrorCode::kNotFound:
      return 5;
    case ErrorCode::kIo:
      return 6;
    case ErrorCode::kOutOfMemory:
      return 7;
    case ErrorCode::kCuda:
      return 8;
    case ErrorCode::kCancelled:
      return 9;
    case ErrorCode::kInternal:
      return 10;
  }
  return 10;
}

}  // namespace fireq
