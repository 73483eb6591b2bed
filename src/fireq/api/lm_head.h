// lm_head in the INT4 form, made on loading.
#pragma once

#include <filesystem>

#include "fireq/api/fireq.h"
#include "fireq/model/model.h"

namespace fireq {

// Empty for kAsStored. Throws kInvalidArgument for kInt4 of a float model.
HeadMaker MakeHead(LmHead lm_head, const std::filesystem::path& model, int num_threads);

}  // namespace fireq
