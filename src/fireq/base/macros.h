// Macros that must exist before anything else; the only place that looks at the compiler's kind.
#pragma once

#if defined(__CUDACC__)
#define FIREQ_HD __host__ __device__
#else
#define FIREQ_HD
#endif
