#pragma once
// Lines on standard error: each is one line that no terminal obeys, whatever names out of files it quotes.

#include <string>

namespace tool {

/// The message with control characters replaced by spaces.
std::string one_line(std::string message);

/// What a person should know although the work goes on: "losa-llama: note: ...".
void note(const std::string& message);

}  // namespace tool
