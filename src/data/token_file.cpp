#include "data/token_file.h"

#include <cstring>

#include "base/error.h"

namespace longhaul {

std::int64_t TokenFile::document_end(std::int64_t document) const {
  LONGHAUL_CHECK(false, "document {} of a file without documents", document);
}

void TokenFile::read_loss_mask(std::int64_t, std::int64_t amount, std::uint8_t* mask) const {
  std::memset(mask, 1, static_cast<std::size_t>(amount));
}

}  // namespace longhaul
