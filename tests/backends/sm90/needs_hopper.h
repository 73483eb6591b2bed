// The skip of a test that needs a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "fireq/backends/sm90/runtime/check.h"

// Without a Hopper GPU: skips the test, or fails it where FIREQ_REQUIRE_GPU is set.
#define FIREQ_NEEDS_HOPPER()                                                      \
  do {                                                                            \
    if (!::fireq::sm90::HasHopper()) {                                            \
      if (std::getenv("FIREQ_REQUIRE_GPU") != nullptr) FAIL() << "no Hopper GPU"; \
      GTEST_SKIP() << "no Hopper GPU";                                            \
    }                                                                             \
  } while (false)
