// Runs one launch: a fiber per thread of a block, on the calling thread.
#pragma once

#include <functional>

namespace cuda_on_cpu {

void launch(const unsigned* grid, const unsigned* block, unsigned shared_bytes,
            const std::function<void()>& thread);

}  // namespace cuda_on_cpu
