// BLAS inside parallel loops of our own: one thread a call, so that work is split the same way (and
// sums come out the same) whatever the number of threads.
#pragma once

namespace fireq::quant {

// Sets OpenBLAS to one thread while it lives. The setting is the process's: not to be held while
// another thread relies on a parallel BLAS.
class SingleThreadBlas {
 public:
  SingleThreadBlas();
  ~SingleThreadBlas();
  SingleThreadBlas(const SingleThreadBlas&) = delete;
  SingleThreadBlas& operator=(const SingleThreadBlas&) = delete;

 private:
  int before_;
};

}  // namespace fireq::quant
