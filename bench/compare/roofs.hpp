#pragma once
// What the machine can do at best, measured beside the products: bytes read from memory and multiply-adds.

#include <cstddef>

namespace compare {

struct Roofs {
  double read_gb_per_s = 0;    // all threads together, the best of several access patterns
  double fma_gflop_per_s = 0;  // f32, all threads together
};

/// Reads `bytes` of memory over and over; they should be more than the caches hold. About a second.
Roofs measure_roofs(std::size_t threads, std::size_t bytes);

/// Size of the last-level caches of all processors together; 32 MiB where the system does not say.
std::size_t last_level_cache_bytes();

}  // namespace compare
