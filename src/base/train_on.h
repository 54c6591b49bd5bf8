// Which turns of a chat are learned: a choice of experiments that tokenizing acts on.
#pragma once
#include <cstdint>

namespace longhaul {

/// The assistant's turns, its last one, or every token.
enum class TrainOn : std::uint8_t { assistant, last, all };

}  // namespace longhaul
