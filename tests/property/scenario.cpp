#include "scenario.h"

#include <algorithm>
#include <fstream>
#include <ostream>

#include "../train/small_experiment.h"
#include "base/error.h"

namespace longhaul::testing {
namespace {

template <typename T>
void write_binary(const std::filesystem::path& file, const std::vector<T>& values) {
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(T)));
}

std::string data_file(const Scenario& s) {
  return s.documents.empty() && s.ignored.empty() ? "tokens.bin" : "tokens.ds";
}

// Where documents end in `count` tokens.
std::vector<std::uint64_t> document_ends(const Scenario& s, std::int64_t count) {
  std::vector<std::uint64_t> ends;
  std::int64_t end = 0;
  for (std::size_t i = 0; end < count; ++i) {
    end = std::min(count, end + s.documents[i % s.documents.size()]);
    ends.push_back(static_cast<std::uint64_t>(end));
  }
  return ends;
}

std::int64_t tokens_of(const Scenario& s) {
  return s.sequence * s.samples() + 1;
}

// Tokens that hold every sample of a step once.
void write_data(const Scenario& s, const std::filesystem::path& folder) {
  const std::int64_t count = tokens_of(s);
  std::vector<std::uint16_t> tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::uint16_t>(philox({static_cast<std::uint32_t>(i), 0, 0, 5}, {3, 4})[0] %
                                                static_cast<std::uint32_t>(s.spec.vocabulary)));
  const std::string name = data_file(s);
  if (name == "tokens.bin") {
    std::vector<std::uint16_t> file(512 + tokens.size());  // 256 int32 of header
    const std::int32_t header[] = {20240520, 1, static_cast<std::int32_t>(count)};
    std::copy_n(reinterpret_cast<const std::uint16_t*>(header), 6, file.begin());
    std::copy(tokens.begin(), tokens.end(), file.begin() + 512);
    return write_binary(folder / name, file);
  }
  write_binary(folder / name, tokens);
  if (!s.documents.empty()) write_binary(folder / (name + ".index"), document_ends(s, count));
  if (!s.ignored.empty()) {
    std::vector<std::uint8_t> mask;
    for (std::size_t i = 0; static_cast<std::int64_t>(mask.size()) < count; ++i)
      mask.insert(mask.end(), static_cast<std::size_t>(s.ignored[i % s.ignored.size()]), i % 2);
    mask.resize(static_cast<std::size_t>(count));
    write_binary(folder / (name + ".loss"), mask);
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Scenario& s) {
  return out << fmt::format(
             "ranks {} data {} ulysses {} ring {} gather_kv {} zero {} order {} S {} rows {} batch {} documents {} "
             "packed {} whole {} long {} masked {} activations {} offload {} overlap {} {}\n{}",
             s.world, s.data, s.ulysses, s.ring, s.gather, s.zero_stage, s.order, s.sequence, s.rows, s.batch,
             s.documents.size(), s.packed, s.whole, s.longer, !s.ignored.empty(), s.activations, s.offload, s.overlap,
             name_of(s.dtype), spec_text(s.spec));
}

std::filesystem::path write_experiment(const Scenario& s, const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  for (const char* old : {"tokens.bin", "tokens.ds", "tokens.ds.index", "tokens.ds.loss"})
    std::filesystem::remove(folder / old);
  std::ofstream(folder / "model.json") << spec_text(s.spec);
  write_data(s, folder);
  std::string split;
  for (const auto& [name, size] : {std::pair{"ulysses", s.ulysses}, {"ring", s.ring}, {"gather_kv", s.gather}})
    if (size > 1 || (split.empty() && std::string_view(name) == "ulysses"))
      split += fmt::format("{}{}: {}", split.empty() ? "" : ", ", name, size);
  std::ofstream(folder / "experiment.yaml") << fmt::format(
      "model: {{config: model.json}}\n"
      "data: {{files: [{}], format: {}{}}}\n"
      "training: {{seq_len: {}, micro_batch_size: {}, global_batch_size: {}, dtype: {}, threads: 1}}\n"
      "parallelism: {{data: {}, sequence: {{{}}}, token_order: {}, zero_stage: {}, overlap: {}}}\n"
      "activation_memory: {{mode: {}, offload: {}}}\n",
      data_file(s), data_file(s) == "tokens.bin" ? "llmc" : "datatrove",
      !s.packed ? ""
      : s.whole ? ", packing: {mode: best_fit, long: " + s.longer + "}"
                : ", packing: {mode: documents}",
      s.sequence, s.rows, s.batch, name_of(s.dtype), s.data, split, s.order, s.zero_stage, s.overlap ? "on" : "off",
      s.activations, s.offload ? "on" : "off");
  return folder / "experiment.yaml";
}

std::string verify_command(const Scenario& s, const std::filesystem::path& experiment) {
  return fmt::format("longhaul verify {} --ranks {}", experiment.string(), s.world);
}

std::vector<std::string> refusals(const Scenario& s) {
  std::vector<std::string> list;
  const auto when = [&](bool condition, const char* message) {
    if (condition) list.emplace_back(message);
  };
  when(s.ring > 1 && s.gather > 1, "ring and gather_kv are two ways");
  when(s.batch % (s.rows * s.data) != 0, "training.global_batch_size is");
  when(s.world % s.data != 0, "parallelism.data is");
  when(s.world % (s.ulysses * s.ring * s.gather) != 0, "parallelism.sequence is");
  when(s.world != s.data * s.ulysses * s.ring * s.gather, "parallelism.data x parallelism.sequence is");
  when(s.spec.learned_positions && s.sequence > s.spec.max_positions, "learned positions");
  when(s.packed && s.documents.empty(), "where documents end");
  if (s.packed && s.whole && s.longer == "skip" && !s.documents.empty()) {
    bool none = true;
    std::uint64_t begin = 0;
    for (const std::uint64_t end : document_ends(s, tokens_of(s))) {
      none &= end - begin > static_cast<std::uint64_t>(s.sequence);
      begin = end;
    }
    when(none, "are longer than training.seq_len");
  }
  for (const auto* layer : s.spec.each_layer()) {
    when(layer->attention.heads % layer->attention.kv_heads != 0, "must be a multiple of attention.kv_heads");
    when(layer->rope.kind != RopeKind::none &&
             (layer->rope.rotary_dim % 2 != 0 || layer->rope.rotary_dim > layer->attention.head_dim),
         "rope.rotary_dim is");
    when(layer->attention.heads % s.ulysses != 0, "query heads, which do not divide over");
  }
  return list;
}

std::int64_t least_hidden_size(const TransformerSpec& spec) {
  bool centred = spec.final_norm.kind == NormKind::layer;
  for (const auto& group : spec.layers) centred |= group.layer.norm.kind == NormKind::layer;
  return centred ? 3 : 2;
}

std::vector<Scenario> simpler(const Scenario& s) {
  std::vector<Scenario> list;
  const auto change = [&](auto&& edit) {
    Scenario one = s;
    edit(one);
    list.push_back(std::move(one));
  };
  const auto to = [&](auto member, auto value) {
    if (s.*member != value) change([&](Scenario& one) { one.*member = value; });
  };
  // Ranks: a split becomes one of its divisors, and the world and the batch follow.
  const auto resize = [&](int Scenario::*member) {
    for (int size = 1; size < s.*member; ++size)
      change([&](Scenario& one) {
        const bool whole = s.world == s.data * s.ulysses * s.ring * s.gather;
        one.*member = size;
        if (whole) one.world = one.data * one.ulysses * one.ring * one.gather;
        if (s.batch % (s.rows * s.data) == 0) one.batch = s.batch / s.data * one.data;
      });
  };
  for (const auto member : {&Scenario::data, &Scenario::ulysses, &Scenario::ring, &Scenario::gather}) resize(member);
  if (s.spec.layers.size() > 1)
    for (std::size_t i = 0; i < s.spec.layers.size(); ++i)
      change([&](Scenario& one) { one.spec.layers.erase(one.spec.layers.begin() + static_cast<std::ptrdiff_t>(i)); });
  // The batch: rows and micro-batches.
  for (const std::int64_t rows : {std::int64_t{1}, s.rows - 1})
    if (rows >= 1 && rows < s.rows)
      change([&](Scenario& one) {
        one.rows = rows;
        one.batch = s.batch / s.rows * rows;
      });
  const std::int64_t at_once = s.rows * s.data;
  if (s.batch % at_once == 0 && s.batch > at_once)
    for (const std::int64_t times : {std::int64_t{1}, s.batch / at_once - 1})
      change([&](Scenario& one) { one.batch = at_once * times; });
  for (const std::int64_t length : {s.sequence / 4, s.sequence / 2, s.sequence - 1})
    if (length >= 1 && length < s.sequence) change([&](Scenario& one) { one.sequence = length; });
  to(&Scenario::activations, std::string("auto"));
  to(&Scenario::offload, false);
  to(&Scenario::overlap, false);
  to(&Scenario::packed, false);
  to(&Scenario::longer, std::string("split"));
  to(&Scenario::whole, false);
  to(&Scenario::documents, std::vector<int>());
  to(&Scenario::ignored, std::vector<int>());
  for (std::size_t i = 0; s.documents.size() > 1 && i < s.documents.size(); ++i)
    change([&](Scenario& one) { one.documents.erase(one.documents.begin() + static_cast<std::ptrdiff_t>(i)); });
  to(&Scenario::dtype, DType::float64);
  to(&Scenario::order, std::string("auto"));
  for (int stage = 0; stage < s.zero_stage; ++stage) to(&Scenario::zero_stage, stage);
  // The model.
  TransformerSpec plain;
  const auto spec = [&](auto member, auto value) {
    if (s.spec.*member != value) change([&](Scenario& one) { one.spec.*member = value; });
  };
  spec(&TransformerSpec::learned_positions, false);
  spec(&TransformerSpec::tied_head, false);
  spec(&TransformerSpec::head_bias, false);
  spec(&TransformerSpec::embedding_multiplier, 1.0);
  spec(&TransformerSpec::logits_scale, 1.0);
  spec(&TransformerSpec::logits_soft_cap, 0.0);
  spec(&TransformerSpec::final_norm, NormSpec{});
  const std::int64_t least = least_hidden_size(s.spec);
  for (const std::int64_t size : {least, s.spec.hidden_size / 2, s.spec.hidden_size - 1})
    if (size >= least && size < s.spec.hidden_size) spec(&TransformerSpec::hidden_size, size);
  for (const std::int64_t size : {std::int64_t{2}, s.spec.vocabulary / 2})
    if (size >= 2 && size < s.spec.vocabulary) spec(&TransformerSpec::vocabulary, size);
  for (std::size_t i = 0; i < s.spec.layers.size(); ++i) {
    const LayerSpec& layer = s.spec.layers[i].layer;
    const auto edit = [&](auto&& function) {
      Scenario one = s;
      function(one.spec.layers[i].layer);
      if (!(one.spec == s.spec)) list.push_back(std::move(one));
    };
    if (s.spec.layers[i].repeat > 1) change([&](Scenario& one) { one.spec.layers[i].repeat = 1; });
    edit([](LayerSpec& l) { l.attention.window = 0; });
    edit([](LayerSpec& l) { l.attention.soft_cap = 0; });
    edit([](LayerSpec& l) { l.attention.qk_norm = false; });
    edit([](LayerSpec& l) { l.attention.qk_norm_span = QkNormSpan::head; });
    edit([](LayerSpec& l) { l.norm_placement = NormPlacement::pre; });
    edit([](LayerSpec& l) { l.branches = Branches::sequential; });
    edit([](LayerSpec& l) {
      l.attention.q_bias = l.attention.k_bias = l.attention.v_bias = l.attention.o_bias = l.mlp.bias = false;
    });
    edit([](LayerSpec& l) { l.rope = RopeSpec{}; });
    edit([](LayerSpec& l) { l.norm = NormSpec{}; });
    edit([](LayerSpec& l) { l.mlp.gated = false; });
    edit([](LayerSpec& l) { l.residual_multiplier = 1; });
    edit([](LayerSpec& l) { l.mlp.size = 1; });
    edit([](LayerSpec& l) { l.mlp.size = std::max<std::int64_t>(1, l.mlp.size / 2); });
    edit([](LayerSpec& l) {
      l.attention.head_dim = 2;
      l.rope.rotary_dim = std::min<std::int64_t>(2, l.rope.rotary_dim);
    });
    if (layer.attention.heads % layer.attention.kv_heads != 0) continue;
    for (const std::int64_t heads : {std::int64_t{s.ulysses}, std::int64_t{2 * s.ulysses}, layer.attention.kv_heads})
      if (heads < layer.attention.heads)
        for (const std::int64_t kv_heads : {std::int64_t{1}, layer.attention.kv_heads, heads})
          if (heads % kv_heads == 0)
            edit([&](LayerSpec& l) {
              l.attention.heads = heads;
              l.attention.kv_heads = kv_heads;
            });
    if (layer.attention.kv_heads > 1) edit([](LayerSpec& l) { l.attention.kv_heads = 1; });
  }
  return list;
}

}  // namespace longhaul::testing
