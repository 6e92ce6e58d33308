#pragma once
// What a person should know of the file systems that a sub-command works on.

#include <cstddef>
#include <string>

namespace tool {

/// A note, with the memory it takes, if the weights of a model's directory lie where files cannot be mapped: then they
/// are read into memory whole, `times` times at once.
void note_unmapped(const std::string& model, std::size_t times = 1);

/// A note if files in this directory, where a scratch file is to be, cannot be mapped for writing.
void note_unmapped_scratch(const std::string& directory);

}  // namespace tool
