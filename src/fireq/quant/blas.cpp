#include "fireq/quant/blas.h"

#include <cblas.h>

namespace fireq::quant {

SingleThreadBlas::SingleThreadBlas() : before_(openblas_get_num_threads()) {
  openblas_set_num_threads(1);
}
SingleThreadBlas::~SingleThreadBlas() { openblas_set_num_threads(before_); }

}  // namespace fireq::quant
