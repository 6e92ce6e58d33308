#pragma once
// Lines on standard error: each is one line that no terminal obeys, whatever names out of files it quotes.

#include <string>
#include <string_view>

namespace tool {

/// The message with control characters replaced by spaces.
std::string one_line(std::string_view message);

/// Writes `prefix` and the message as one such line. Takes no memory, as there may be none.
void tell(std::string_view prefix, std::string_view message) noexcept;

/// What a person should know although the work goes on: "losa-llama: note: ...".
void note(std::string_view message) noexcept;

}  // namespace tool
