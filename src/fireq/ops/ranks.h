// Several backends that compute one model together, each with a part of every linear.
#pragma once

#include "fireq/ops/args.h"
#include "fireq/tensor/tensor.h"

namespace fireq {

class Backend;

// Which of how many. One rank alone has all of a model.
struct Share {
  int rank = 0;
  int size = 1;
};

// One backend's end of the connection. Each rank runs in a thread of its own.
class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual Share share() const = 0;
  // values (border, of one shape on every rank, in this rank's memory) = their sum over the ranks,
  // in order with the backend's ops, with the same bits on every rank. All ranks make the same
  // calls in the same order. A norm to codes as the next op takes the sum along where that pays:
  // then a rank is sure of its own rows afterwards, every size-th from number `rank` on, and not of
  // the others'.
  virtual void Sum(const Tensor& values) = 0;
  // linear.y += the sum over the ranks of their products: a Backend::Linear whose residual is y, on
  // this rank's backend, and a Sum. Of y a rank needs what a Sum makes it sure of.
  virtual void AddLinear(Backend& backend, LinearArgs linear);
  // A Backend::Linear that every rank has whole, with the same result on every rank: they share it
  // where Reserve has taken what that needs.
  virtual void Linear(Backend& backend, const LinearArgs& linear);
  // Takes, from `backend`, what this rank's calls of Linear with limits.lm_head need; returns how
  // many bytes. This one needs nothing.
  virtual int64_t Reserve(Backend& /*backend*/, const StepLimits& /*limits*/) { return 0; }
  // x = all rows of what AddLinear has made, for who reads more than a norm to codes does.
  virtual void Complete(const Tensor& /*x*/) {}
  // This rank has failed: the others are not left waiting for it. Their Sum and Check throw
  // kCancelled from then on, and sums that are under way end with whatever they have.
  virtual void Fail() = 0;
  // Before a step that may be a recording, which does not call Sum.
  virtual void Check() const = 0;

 protected:
  // The part of AddLinear in front of its Sum.
  void AddProduct(Backend& backend, LinearArgs linear) const;
};

}  // namespace fireq
