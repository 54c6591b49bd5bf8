// export_model: parameter by parameter, piece by piece, to rank 0.
#include <memory>

#include "base/error.h"
#include "comm/exchange.h"
#include "run/model_writer.h"
#include "run/parameter_pieces.h"
#include "run/weights.h"

namespace longhaul {

ExportedModel export_model(Session& session, const TransformerSpec& spec, const std::filesystem::path& folder,
                           const ExportOptions& options) {
  Communicator& world = session.world();
  ParameterPieces pieces(session, spec);
  std::unique_ptr<ModelWriter> writer;
  phase(world, [&] {
    writer = std::make_unique<ModelWriter>(spec, folder, options, pieces.tensor(0).dtype);
    if (world.rank() == 0) writer->open();
  });
  for (std::size_t i = 0; i < pieces.count(); ++i)
    agree(world, pieces.for_each(i, [&](std::int64_t begin, std::int64_t end, const char* data) {
      writer->write(i, begin, end, data, pieces.tensor(i).dtype);
    }));
  ExportedModel exported{writer->family(), 0, 1};
  phase(world, [&] {
    if (world.rank() == 0) exported = writer->finish();
  });
  writer.reset();  // its temporary folder goes
  return exported;
}

}  // namespace longhaul
