// The kernels are those of CachedAttention, over codes.
#pragma once

#include "../cached_attention/kernel.cuh"
