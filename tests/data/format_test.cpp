// A data format is one file: here one is registered, and everything that names formats knows it.
#include "data/format.h"

#include <catch2/catch.hpp>

#include "../io/temporary.h"
#include "config/experiment.h"
#include "data/dataset.h"
#include "data/expand_files.h"
#include "data/stored_tokens.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

class Shifted : public StoredTokens {
 public:
  explicit Shifted(const std::string& path) {
    file_ = MappedFile(path);
    offset_ = 1;
    count_ = file_.size() - 1;
    refuse_empty();
  }
};

const FormatRegistration shifted(
    {{.name = "shifted", .meaning = "a byte, then bytes", .documents = "", .prompts = true},
     {".shifted"},
     [](const std::string& path) {
       return std::vector{path, path + ".beside"};
     },
     [](const std::string& path, const FormatOptions&) -> std::unique_ptr<TokenFile> {
       return std::make_unique<Shifted>(path);
     }});

}  // namespace

TEST_CASE("a registered format is read, found in folders and named wherever formats are") {
  TemporaryFolder folder;
  for (const char* name : {"a.shifted", "a.shifted.beside", "b.shifted", "c.txt"}) write_bytes(folder / name, "_token");

  const TokenDataset dataset({{folder.path()}, "shifted", 256, {}});
  CHECK(dataset.files() == 2);
  CHECK(dataset.size() == 10);
  CHECK_FALSE(dataset.has_documents());
  std::int32_t tokens[2];
  dataset.read(4, 2, tokens);
  CHECK(tokens[0] == 'n');
  CHECK(tokens[1] == 't');
  CHECK(expand_files({folder / "a*"}, "shifted") == std::vector{folder / "a.shifted"});
  CHECK(files_of_data(folder / "a.shifted", "shifted").size() == 2);
  CHECK(files_of_data(folder / "b.shifted", "shifted").size() == 1);

  const std::string yaml =
      "job: {name: x}\nmodel: {config: m.json}\ntraining: {steps: 1}\noptimizer: {lr: 1e-3}\n"
      "data: {mask_prompt: true, format: ";
  const Experiment experiment = parse_experiment(yaml + "shifted}\n", folder / "x.yaml");
  CHECK(experiment.data.format == "shifted");
  CHECK_THAT(to_yaml(experiment), Contains("format: shifted"));
  CHECK_THAT(message_of([&] { parse_experiment(yaml + "shiftd}\n", folder / "x.yaml"); }), Contains("shifted"));
  CHECK_THAT(message_of([&] { parse_experiment(yaml + "llmc}\n", folder / "x.yaml"); }),
             Contains("it is for jsonl and shifted"));
  CHECK_THAT(message_of([&] { find_format("none"); }), Contains("llmc, megatron, npy, raw, shifted, text"));
  CHECK_THAT(experiment_schema(), Contains("shifted: a byte, then bytes"));
}
