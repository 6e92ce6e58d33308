#pragma once
// Counter-based random numbers: every number is a pure function of (seed, stream, index), so that no result depends
// on the order in which threads ask. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), of which one 64-bit half is used per index.
//
//   losa::Random random{.seed = 4, .stream = 17};
//   double u = random.uniform(i);                  // [0, 1), the same for the same i, whoever asks

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace losa::inline v0 {

struct Random {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;

  /// 64 random bits for an index.
  std::uint64_t bits(std::uint64_t index) const noexcept {
    std::uint32_t counter[4] = {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                                static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
    auto key0 = static_cast<std::uint32_t>(seed);
    auto key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
      const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
      const std::uint32_t next0 = static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0;
      const std::uint32_t next2 = static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1;
      counter[1] = static_cast<std::uint32_t>(product1);
      counter[3] = static_cast<std::uint32_t>(product0);
      counter[0] = next0;
      counter[2] = next2;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    return std::uint64_t{counter[0]} | (std::uint64_t{counter[1]} << 32);
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const noexcept { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }
  /// Uniform in {0, …, bound − 1}; bound > 0. The bias is below bound·2⁻⁵³.
  std::uint64_t below(std::uint64_t bound, std::uint64_t index) const noexcept {
    return static_cast<std::uint64_t>(uniform(index) * static_cast<double>(bound));
  }
  /// Standard normal (Box–Muller).
  double normal(std::uint64_t index) const noexcept {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(2 * index)));
    return radius * std::cos(2.0 * std::numbers::pi * uniform(2 * index + 1));
  }
};

}  // namespace losa::inline v0
