// config.json from arbitrary bytes: either a configuration whose numbers fit together, or one of losa's errors.

#include <cstddef>
#include <cstdint>
#include <losa/core/error.hpp>
#include <string_view>

#include "config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto config = llama::parse_config({reinterpret_cast<const char*>(data), size});
    bool sound = config.heads % config.kv_heads == 0 && config.head_dim % 2 == 0 && config.blocks != 0;
    const auto& scaling = config.rope_scaling;
    sound = sound && scaling.factor >= 1 && scaling.low_frequency < scaling.high_frequency;
    for (std::size_t which = 0; which < llama::linears_per_block; ++which) {
      const auto [out, in] = llama::linear_shape(config, which);
      sound = sound && out != 0 && in != 0;
    }
    if (!sound) __builtin_trap();
  } catch (const losa::Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) __builtin_trap();
  }
  return 0;
}
