// config.json from arbitrary bytes, and after the first zero byte a generation_config.json: either a configuration
// whose numbers fit together, or one of losa's errors.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <losa/core/error.hpp>
#include <string_view>

#include "config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const std::size_t end = std::min(size, all.find('\0'));
  try {
    auto config = llama::parse_config(all.substr(0, end));
    bool sound = config.heads % config.kv_heads == 0 && config.head_dim % 2 == 0 && config.blocks != 0;
    const auto& scaling = config.rope_scaling;
    sound = sound && scaling.factor >= 1 && scaling.low_frequency < scaling.high_frequency;
    for (std::size_t which = 0; which < llama::linears_per_block; ++which) {
      const auto [out, in] = llama::linear_shape(config, which);
      sound = sound && out != 0 && in != 0;
    }
    if (end < size) llama::parse_generation_config(all.substr(end + 1), config);
    const auto inside = [&](std::size_t id) { return id < config.vocabulary; };
    sound = sound && std::ranges::all_of(config.ends, inside);
    sound = sound && inside(config.begin.value_or(0)) && inside(config.pad.value_or(0));
    if (!sound) __builtin_trap();
  } catch (const losa::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) __builtin_trap();
  }
  return 0;
}
