// verify --shrink: models that no test could run, in their place small ones that are split alike.
#include "base/sanitizers.h"
#include "program.h"

using namespace longhaul::testing;

namespace {

std::vector<std::string> shrink_command(const Workplace& place, const std::vector<std::string>& arguments) {
  auto command = longhaul_command(
      {"verify", (place / "experiment.yaml").string(), "--shrink",
       "model.config=" + longhaul::environment("LONGHAUL_SOURCE") + "/configs/models/llama-3.1-8b.json",
       "training.seq_len=131072", "data.files=[]"});
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

Ended shrink(const Workplace& place, const std::vector<std::string>& arguments) {
  return Program(place / "log", shrink_command(place, arguments)).wait();
}

const std::vector<std::string> split = {"--ranks", "8", "parallelism.sequence={ulysses: 4, ring: 2}"};

std::vector<std::string> with(std::vector<std::string> list, const std::vector<std::string>& more) {
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

}  // namespace

TEST_CASE("a model too large for one rank is verified small", "[threads]") {
  const Workplace place;
  check_end(
      shrink(place, split), 0,
      {"32 layers (32 of 32:8 heads of 128, MLP 14336) become 2 (2 of 32:8 heads of 8", "hidden_size 4096 becomes",
       "seq_len 131072 becomes 64", "micro_batch_size 2 becomes 2, 2 micro-batches a step become 2",
       "tokens are made by a counter", "8 ranks = data 1 x ring 2 x ulysses 4, zigzag order", "verified: "});
  check_end(shrink(place, with(split, {"training.dtype=float64", "parallelism.zero_stage=3",
                                       "data.packing={mode: documents}"})),
            0, {"zero_stage 3", "verified: "});
}

TEST_CASE("a fault makes a shrunk experiment fail", "[threads]") {
  const Workplace place;
  for (const std::string fault : {"expand_ring", "averaged_gradient", "lost_accumulation"})
    check_end(shrink(place, with(split, {"parallelism.zero_stage=2", "--fault", fault})), 1, {"NOT verified"});
  // KV heads are repeated in the small model because they are in the large one.
  check_end(shrink(place, {"--ranks", "16", "parallelism.sequence=16", "--fault", "kv_gradient"}), 1, {"NOT verified"});
  check_end(shrink(place, {"--ranks", "16", "parallelism.sequence=16"}), 0, {"32:8", "verified: "});
}

TEST_CASE("shrinking keeps a layer of every kind, tied weights and the files' documents", "[threads]") {
  const Workplace place;
  nlohmann::ordered_json window = {{"repeat", 5},
                                   {"attention", {{"heads", 12}, {"kv_heads", 4}, {"head_dim", 64}, {"window", 512}}},
                                   {"rope", {{"type", "default"}}},
                                   {"norm", {{"type", "rms"}, {"epsilon", 1e-6}}},
                                   {"mlp", {{"gated", true}, {"activation", "gelu_tanh"}, {"size", 6912}}}};
  nlohmann::ordered_json global = window;
  global["repeat"] = 1;
  global["attention"] = {{"heads", 8}, {"kv_heads", 1}, {"head_dim", 256}};
  write_file(place / "mixed.json", nlohmann::ordered_json{{"model_type", "longhaul"},
                                                          {"vocabulary", 262144},
                                                          {"hidden_size", 1152},
                                                          {"max_positions", 32768},
                                                          {"layers", {window, global, window, global}},
                                                          {"final_norm", {{"type", "rms"}, {"epsilon", 1e-6}}},
                                                          {"tied_head", true}}
                                       .dump());
  write_file(place / "a.txt", std::string(1000, 'a') + std::string(700, 'b'));
  write_file(place / "b.txt", std::string(900, 'c'));
  const std::vector<std::string> keys = {
      "model.config=" + (place / "mixed.json").string(),
      "training.seq_len=1000",
      "training.dtype=float64",
      "data.files=[" + (place / "a.txt").string() + ", " + (place / "b.txt").string() + "]",
      "data.tokenizer=bytes",
      "data.packing={mode: documents}",
      "--ranks",
      "4",
      "parallelism.sequence={ulysses: 2, ring: 2}"};
  const Ended ended = shrink(place, keys);
  check_end(ended, 0,
            {"1 of 12:4 heads of 8, window", "1 of 8:1 heads of 12", "of the files, ids modulo 97", "verified: "});
  const Ended whole = shrink(place, with(keys, {"training.seq_len=100000"}));
  check_end(whole, 1, {"the data has", "seq_len 100000"});
}

TEST_CASE("what cannot be trained is refused before it is shrunk", "[threads]") {
  const Workplace place;
  check_end(shrink(place, {"--ranks", "3", "parallelism.sequence=3"}), 1, {"32 query heads", "these work"});
  check_end(shrink(place, {"--ranks", "4", "parallelism.sequence={ring: 2, gather_kv: 2}"}), 1, {"ring and gather_kv"});
  check_end(shrink(place, with(split, {"training.global_batch_size=3"})), 1, {"training.global_batch_size is 3"});
  check_end(shrink(place, with(split, {"data.files=[" + (place / "text.txt").string() + "]", "data.tokenizer=bytes"})),
            1, {"the data has 3000 tokens", "131072"});
  check_end(shrink(place, with(split, {"data.files=[" + (place / "text.txt").string() + "]", "training.seq_len=512",
                                       "data.packing={mode: documents}", "data.format=llmc"})),
            1, {"text.txt"});
}

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("a shrunk experiment under mpirun", "[mpi]") {
  const Workplace place;
  std::vector<std::string> command = {"mpirun", "--oversubscribe", "--allow-run-as-root", "-n", "4"};
  const auto rest = shrink_command(place, {"parallelism.sequence={ulysses: 2, ring: 2}", "parallelism.zero_stage=3"});
  command.insert(command.end(), rest.begin(), rest.end());
  std::vector<std::string> environment;
#ifdef LONGHAUL_ADDRESS_SANITIZER
  environment = {"ASAN_OPTIONS=detect_leaks=0"};  // MPI libraries leak by design
#endif
  check_end(Program(place / "log", command, environment).wait(), 0, {"32 layers", "verified: "});
}
#endif
