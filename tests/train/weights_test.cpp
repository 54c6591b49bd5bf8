// Weight files in and out: conversions, what is refused, and exports from every layout of the state.
#include "run/weights.h"

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <sstream>

#include "base/error.h"
#include "io/safetensors.h"
#include "model/huggingface.h"
#include "small_models.h"
#include "tests/io/temporary.h"

namespace longhaul {
namespace {

using namespace testing;
using Catch::Contains;
using longhaul_test::message_of;
using longhaul_test::TemporaryFolder;

std::string read_text(const std::filesystem::path& path) {
  return longhaul_test::read_bytes(path.string());
}

// Half precision of a value that it holds exactly and normally, or of 0.
std::uint16_t half_of(double value) {
  if (value == 0) return 0;
  int exponent = 0;
  const double fraction = std::frexp(std::abs(value), &exponent);  // [0.5, 1)
  const auto bits = static_cast<std::uint16_t>((exponent + 14) << 10 | static_cast<int>((fraction * 2 - 1) * 1024));
  return static_cast<std::uint16_t>(bits | (value < 0 ? 0x8000 : 0));
}

std::string encoded(const std::vector<double>& values, const std::string& dtype) {
  std::string bytes;
  for (double value : values) {
    if (dtype == "F64") bytes += longhaul_test::bytes_of(value);
    if (dtype == "F32") bytes += longhaul_test::bytes_of(static_cast<float>(value));
    if (dtype == "BF16") bytes += longhaul_test::bytes_of(bfloat16(static_cast<float>(value)).bits);
    if (dtype == "F16") bytes += longhaul_test::bytes_of(half_of(value));
    if (dtype == "I32") bytes += longhaul_test::bytes_of(static_cast<std::int32_t>(value));
  }
  return bytes;
}

struct FileTensor {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::string values_of = {};  // another tensor, whose values it has
};

// Element i of a tensor: exact in every dtype, different from tensor to tensor.
double element_of(const std::string& tensor, std::int64_t i) {
  return static_cast<double>((i * 7 + static_cast<std::int64_t>(tensor.size()) * 5) % 253 - 126) / 64;
}

void write_file(const std::string& path, const std::vector<FileTensor>& tensors) {
  std::vector<SafetensorsDeclaration> declarations;
  for (const auto& tensor : tensors) declarations.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path, declarations);
  for (const auto& tensor : tensors) {
    std::int64_t count = 1;
    for (std::int64_t size : tensor.shape) count *= size;
    std::vector<double> values;
    for (std::int64_t i = 0; i < count; ++i)
      values.push_back(element_of(tensor.values_of.empty() ? tensor.name : tensor.values_of, i));
    const std::string bytes = encoded(values, tensor.dtype);
    writer.write(tensor.name, 0, bytes.data(), static_cast<std::int64_t>(bytes.size()));
  }
  writer.finish();
}

// The tensors that a family's files have, under their names or their other names.
std::vector<FileTensor> tensors_of(const TransformerSpec& spec, std::string_view family, const std::string& dtype,
                                   bool other_names = false) {
  std::vector<FileTensor> tensors;
  for (const auto& mapping : weight_mappings(spec, family)) {
    const std::string& name = other_names && !mapping.other_name.empty() ? mapping.other_name : mapping.tensor;
    if (std::ranges::none_of(tensors, [&](const auto& one) { return one.name == name; }))
      tensors.push_back({name, dtype, mapping.tensor_shape});
  }
  return tensors;
}

std::vector<double> read_range(const ParameterSource& source, const std::string& name, std::int64_t begin,
                               std::int64_t end, DType dtype) {
  std::vector<double> doubles(static_cast<std::size_t>(end - begin));
  if (dtype == DType::float64) {
    source(name, begin, end, dtype, doubles.data());
    return doubles;
  }
  std::vector<float> floats(doubles.size());
  source(name, begin, end, dtype, floats.data());
  return {floats.begin(), floats.end()};
}

CompileRequest request_for(const TransformerSpec& spec, DType dtype, int stage, int data, int ulysses) {
  CompileRequest request;
  request.scratch = cpu_scratch_bytes();
  request.spec = spec;
  request.options = options_for(spec, dtype, stage);
  request.mesh = Mesh({{"dp", data}, {"ring", 1}, {"ulysses", ulysses}});
  request.batch = data;
  request.sequence = 4 * ulysses;
  request.kinds = step_kinds(1, false);
  return request;
}

ExportedModel export_once(const CompileRequest& request, const std::string& folder, const ExportOptions& options) {
  const CompiledModel model = compile_model(request);
  ExportedModel result;
  run_threads(request.mesh.world(), [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    session.set_parameters(random_parameters(request.spec, 5));
    const ExportedModel exported = export_model(session, request.spec, folder, options);
    if (world.rank() == 0) result = exported;
    return 0;
  });
  return result;
}

// Every parameter of the export is what random_parameters gave, rounded to the stored type.
void check_export(const std::string& folder, const TransformerSpec& spec, const std::string& family, DType stored) {
  const ParameterSource source = weights_source(folder, spec, family), expected = random_parameters(spec, 5);
  for (const auto& parameter : parameters(spec)) {
    auto values = read_range(expected, parameter.name, 0, parameter.elements(), DType::float32);
    if (stored == DType::bfloat16)
      for (double& value : values) value = static_cast<float>(bfloat16(static_cast<float>(value)));
    INFO(parameter.name);
    CHECK((read_range(source, parameter.name, 0, parameter.elements(), DType::float64) == values));
  }
  const SafetensorsReader reader(folder);
  for (const auto& [name, tensor] : reader.tensors()) CHECK(tensor.dtype == safetensors_name(stored));
}

// With one epsilon for all norms, as Qwen3 has it.
TransformerSpec exportable_qwen3() {
  TransformerSpec spec = small_qwen3();
  for (auto& group : spec.layers) group.layer.attention.qk_norm_epsilon = group.layer.norm.epsilon;
  return spec;
}

}  // namespace

TEST_CASE("weight files of every floating dtype are read, in any range") {
  const TemporaryFolder folder;
  for (const char* dtype : {"F64", "F32", "BF16", "F16"})
    for (const auto& [spec, family] : {std::pair{small_llama(), "llama"}, {small_gpt2(), "gpt2"}}) {
      const std::string path = folder / "w.safetensors";
      const bool other_names = *dtype == 'F';
      write_file(path, tensors_of(spec, family, dtype, other_names));
      const ParameterSource source = weights_source(path, spec, family);
      for (const auto& mapping : weight_mappings(spec, family)) {
        const std::string& tensor = other_names && !mapping.other_name.empty() ? mapping.other_name : mapping.tensor;
        const std::int64_t count = mapping.elements();
        std::vector<double> expected;
        for (std::int64_t i = 0; i < count; ++i) {
          const double value = element_of(tensor, mapping.tensor_offset(i));
          // bfloat16 has 8 significant bits.
          expected.push_back(*dtype == 'B' ? static_cast<float>(bfloat16(static_cast<float>(value))) : value);
        }
        INFO(family << " " << dtype << " " << mapping.parameter);
        for (const DType wanted : {DType::float64, DType::float32})
          for (const auto& [begin, end] :
               {std::pair<std::int64_t, std::int64_t>{0, count}, {count / 3, count - 1}, {1, 2}, {count, count}})
            CHECK((read_range(source, mapping.parameter, begin, end, wanted) ==
                   std::vector<double>(expected.begin() + begin, expected.begin() + end)));
      }
    }
}

TEST_CASE("half precision is read exactly, with its zeros, subnormals and infinities") {
  const TemporaryFolder folder;
  TransformerSpec spec = small_llama();
  const std::string path = folder / "w.safetensors";
  auto tensors = tensors_of(spec, own_family, "F16");
  std::vector<SafetensorsDeclaration> declarations;
  for (const auto& tensor : tensors) declarations.push_back({tensor.name, "F16", tensor.shape});
  SafetensorsWriter writer(path, declarations);
  const std::vector<std::uint16_t> bits = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0xc248,
                                           0x7bff, 0x7c00, 0xfc00, 0x7e00, 0x3555, 0,      0};
  for (const auto& tensor : tensors) {
    std::int64_t count = 1;
    for (std::int64_t size : tensor.shape) count *= size;
    std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
    std::copy_n(bits.begin(), std::min(values.size(), bits.size()), values.begin());
    writer.write(tensor.name, 0, values.data(), count * 2);
  }
  writer.finish();
  const auto values = read_range(weights_source(path, spec, own_family), "final_norm.weight", 0, 12, DType::float64);
  CHECK(values[0] == 0);
  CHECK((values[1] == 0 && std::signbit(values[1])));
  CHECK(values[2] == std::ldexp(1.0, -24));
  CHECK(values[3] == -std::ldexp(1023.0, -24));
  CHECK(values[4] == std::ldexp(1.0, -14));
  CHECK(values[5] == 1);
  CHECK(values[6] == -3.140625);
  CHECK(values[7] == 65504);
  CHECK(values[8] == INFINITY);
  CHECK(values[9] == -INFINITY);
  CHECK(std::isnan(values[10]));
  CHECK(values[11] == 0x1.554p-2);
}

TEST_CASE("weight files that do not fit the model are refused by tensor and shape") {
  const TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  const TransformerSpec spec = small_llama();
  const auto complete = tensors_of(spec, "llama", "F32");
  const auto refusal = [&](std::vector<FileTensor> tensors, const TransformerSpec& wanted = small_llama(),
                           std::string_view family = "llama") {
    write_file(path, tensors);
    return message_of([&] { weights_source(path, wanted, family); });
  };
  CHECK(refusal(complete).empty());

  auto tensors = complete;
  std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "model.layers.1.mlp.up_proj.weight"; });
  CHECK_THAT(refusal(tensors), Contains("w.safetensors") && Contains("'model.layers.1.mlp.up_proj.weight'") &&
                                   Contains("[24, 16]") && Contains("missing") && Contains("layers.1.mlp.up.weight"));

  tensors = complete;
  for (auto& tensor : tensors)
    if (tensor.name == "lm_head.weight") tensor.shape = {30, 16};
  CHECK_THAT(refusal(tensors),
             Contains("w.safetensors") && Contains("'lm_head.weight'") && Contains("[30, 16]") && Contains("[29, 16]"));

  tensors = complete;
  tensors.push_back({"model.layers.2.mlp.up_proj.weight", "F32", {24, 16}});
  CHECK_THAT(refusal(tensors),
             Contains("w.safetensors") && Contains("'model.layers.2.mlp.up_proj.weight'") && Contains("[24, 16]"));

  tensors = complete;
  tensors.front().dtype = "I32";
  CHECK_THAT(refusal(tensors), Contains(tensors.front().name) && Contains("I32") && Contains("BF16"));

  // Known companions are passed over if they say what the configuration says (tests/run/dropped_tensors_test.cpp); the
  // same tensor under two names is not.
  tensors = complete;
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4}});
  CHECK_THAT(refusal(tensors), Contains("inv_freq") && Contains("rotary frequenc"));
  tensors = tensors_of(small_gpt2(), "gpt2", "F32");
  // The head of a model that has none of its own is the embedding, or another model's.
  tensors.push_back({"lm_head.weight", "F32", {29, 16}});
  CHECK_THAT(refusal(tensors, small_gpt2(), "gpt2"),
             Contains("'lm_head.weight'") && Contains("'transformer.wte.weight'") && Contains("tie_word_embeddings"));
  tensors.back().values_of = "transformer.wte.weight";
  CHECK(refusal(tensors, small_gpt2(), "gpt2").empty());
  tensors.push_back({"wte.weight", "F32", {29, 16}});
  CHECK_THAT(refusal(tensors, small_gpt2(), "gpt2"), Contains("'wte.weight'"));

  CHECK_THAT(message_of([&] { weights_source(folder / "none", spec, "llama"); }), Contains("none"));
}

TEST_CASE("tensors are found without the model's prefix and behind those of wrappers; other names are told") {
  const TemporaryFolder folder;
  const std::string path = folder / "w.safetensors";
  TransformerSpec tied = small_llama();
  tied.tied_head = true;
  const auto renamed = [&](const TransformerSpec& spec, std::string_view family, auto&& name) {
    auto tensors = tensors_of(spec, family, "F32");
    for (auto& tensor : tensors) {
      tensor.values_of = tensor.name;
      tensor.name = name(tensor.name);
    }
    write_file(path, tensors);
  };
  const auto check_read = [&](const TransformerSpec& spec, std::string_view family) {
    const ParameterSource source = weights_source(path, spec, family);
    for (const auto& mapping : weight_mappings(spec, family)) {
      const auto values = read_range(source, mapping.parameter, 0, mapping.elements(), DType::float64);
      std::vector<double> wanted;
      for (std::int64_t i = 0; i < mapping.elements(); ++i)
        wanted.push_back(element_of(mapping.tensor, mapping.tensor_offset(i)));
      INFO(mapping.parameter);
      CHECK((values == wanted));
    }
  };
  const auto base = [](const std::string& name) {
    return name.starts_with("model.") ? name.substr(6) : name.starts_with("transformer.") ? name.substr(12) : name;
  };
  renamed(tied, "llama", base);
  check_read(tied, "llama");
  for (const std::string wrapper : {"module.", "_orig_mod.", "module._orig_mod."}) {
    renamed(small_llama(), "llama", [&](const std::string& name) { return wrapper + name; });
    check_read(small_llama(), "llama");
    renamed(small_llama(), "llama", [&](const std::string& name) { return wrapper + base(name); });
    check_read(small_llama(), "llama");
    renamed(small_gpt2(), "gpt2", [&](const std::string& name) { return wrapper + name; });
    check_read(small_gpt2(), "gpt2");
    renamed(small_gpt2(), "gpt2", [&](const std::string& name) { return wrapper + base(name); });
    check_read(small_gpt2(), "gpt2");
  }
  // Untied, a base model lacks its head: nothing is made up for it.
  auto tensors = tensors_of(small_llama(), "llama", "F32");
  std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "lm_head.weight"; });
  for (auto& tensor : tensors) tensor.name = base(tensor.name);
  write_file(path, tensors);
  CHECK_THAT(message_of([&] { weights_source(path, small_llama(), "llama"); }),
             Contains("'lm_head.weight'") && Contains("a base model") && Contains("tie_word_embeddings"));
  const auto said = [&](const std::string& prefix) {
    renamed(tied, "llama", [&](const std::string& name) { return prefix + name; });
    return message_of([&] { weights_source(path, tied, "llama"); });
  };
  CHECK_THAT(said("language_model."), Contains("'model.embed_tokens.weight'") && Contains("is missing") &&
                                          Contains("'language_model.model.embed_tokens.weight'") &&
                                          Contains("images and text"));
  CHECK_THAT(said("base_model.model."), Contains("LoRA") && Contains("merge"));
  CHECK_THAT(said("odd."), Contains("names as 'odd.model.embed_tokens.weight'"));
}

TEST_CASE("exports from every ZeRO stage hold the parameters", "[threads][numbers]") {
  for (const auto& [spec, family] :
       {std::pair{small_llama(), "llama"}, {small_gpt2(), "gpt2"}, {exportable_qwen3(), "qwen3"}})
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
      for (int stage = 0; stage <= 3; ++stage) {
        const TemporaryFolder folder;
        INFO(family << " " << name_of(dtype) << " zero " << stage);
        // bfloat16 runs have float32 masters.
        const bool asked = stage == 2 && dtype != DType::float64;
        const DType stored = asked ? DType::bfloat16 : master_dtype(dtype);
        ExportOptions options{.family = family, .source_config = "", .dtype = std::nullopt};
        if (asked) options.dtype = DType::bfloat16;
        CompileRequest request = request_for(spec, dtype, stage, stage % 2 ? 2 : 1, 2);
        if (stage == 3) request.options.placement.replica_axes = {"dp"};  // two ranks hold each shard
        const ExportedModel exported = export_once(request, folder / "model", options);
        CHECK(exported.family == family);
        CHECK(exported.bytes ==
              static_cast<std::int64_t>(std::filesystem::file_size(folder / "model/model.safetensors")));
        check_export(folder / "model", spec, family, stored);
        const LoadedModel loaded = load_model(folder / "model");
        CHECK(loaded.family == family);
        CHECK(spec_text(loaded.spec) == spec_text(spec));
        CHECK_THAT(loaded.config_text, Contains(fmt::format("\"{}\"", name_of(stored))));
      }
}

TEST_CASE("parameters larger than a piece are exported whole", "[threads][numbers]") {
  TransformerSpec spec = small_gpt2();
  spec.hidden_size = 512;
  spec.vocabulary = 1100;
  spec.layers[0].repeat = 1;
  spec.layers[0].layer.attention.head_dim = 128;
  spec.layers[0].layer.attention.scale = 1 / std::sqrt(128.0);
  spec.layers[0].layer.mlp.size = 1100;
  for (const int stage : {0, 3}) {
    const TemporaryFolder folder;
    export_once(request_for(spec, DType::float32, stage, 3, 1), folder / "model",
                {.family = "gpt2", .source_config = "", .dtype = {}});
    check_export(folder / "model", spec, "gpt2", DType::float32);
  }
}

TEST_CASE("a model that no family expresses is exported as our own, and the log says so", "[threads]") {
  TransformerSpec spec = small_llama();
  spec.layers[0].layer.attention.soft_cap = 20;
  std::ostringstream text;
  const auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text);
  spdlog::default_logger()->sinks().push_back(sink);
  const TemporaryFolder folder;
  const ExportedModel exported = export_once(request_for(spec, DType::float32, 3, 2, 1), folder / "model",
                                             {.family = "llama", .source_config = "", .dtype = {}});
  spdlog::default_logger()->sinks().pop_back();
  CHECK(exported.family == own_family);
  CHECK_THAT(text.str(), Contains("no Hugging Face family can express") && Contains("soft_cap"));
  check_export(folder / "model", spec, std::string(own_family), DType::float32);
  CHECK(load_model(folder / "model").spec == spec);
}

TEST_CASE("an export that fails on rank 0 fails on all ranks and leaves the earlier one", "[threads]") {
  const TemporaryFolder folder;
  const std::string target = folder / "model";
  const CompileRequest request = request_for(small_llama(), DType::float32, 3, 2, 1);
  const CompiledModel model = compile_model(request);
  const ExportOptions options{.family = "llama", .source_config = "", .dtype = {}};
  export_once(request, target, options);
  longhaul_test::write_bytes(target + "/tokenizer.json", "{}");
  const std::string weights = read_text(target + "/model.safetensors"), config = read_text(target + "/config.json");

  struct rlimit before {};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  std::vector<std::string> messages(2);
  run_threads(2, [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    session.set_parameters(random_parameters(request.spec, 6));  // other numbers
    world.barrier();
    if (world.rank() == 0) {
      struct rlimit small = before;
      small.rlim_cur = 4096;
      ::setrlimit(RLIMIT_FSIZE, &small);
    }
    world.barrier();
    messages[static_cast<std::size_t>(world.rank())] =
        message_of([&] { export_model(session, request.spec, target, options); });
    world.barrier();
    if (world.rank() == 0) ::setrlimit(RLIMIT_FSIZE, &before);
    return 0;
  });
  std::signal(SIGXFSZ, handler);
  CHECK_THAT(messages[0], Contains("rank 0: ") && Contains("model.safetensors") && Contains("File too large"));
  CHECK(messages[1] == messages[0]);
  CHECK(read_text(target + "/model.safetensors") == weights);
  CHECK(read_text(target + "/config.json") == config);

  // The ranks can go on, and an export over an earlier one replaces its two files only.
  run_threads(2, [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    session.set_parameters(random_parameters(request.spec, 6));
    // A folder cannot be made where a file is.
    const std::string message =
        message_of([&] { export_model(session, request.spec, target + "/config.json/x", options); });
    if (message.empty()) fail("an export into a file was accepted");
    export_model(session, request.spec, target, options);
    return 0;
  });
  CHECK(read_text(target + "/model.safetensors") != weights);
  CHECK(read_text(target + "/config.json") == config);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(target))
    names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  CHECK(names == std::vector<std::string>{"config.json", "model.safetensors", "tokenizer.json"});
}

}  // namespace longhaul
