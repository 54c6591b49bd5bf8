#include "verify/locate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>

#include "base/error.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "verify/compare.h"

namespace longhaul {
namespace {

using Values = std::vector<double>;

Values values_of(const HostTensor& tensor) {
  Values values(static_cast<std::size_t>(tensor.type.count()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = tensor.at(static_cast<std::int64_t>(i));
  return values;
}

HostTensor tensor_of(const Shape& shape, DType dtype, const Values& values) {
  HostTensor tensor(TensorType{shape, dtype});
  LONGHAUL_CHECK(static_cast<std::size_t>(tensor.type.count()) == values.size(), "{} values", values.size());
  for (std::size_t i = 0; i < values.size(); ++i) tensor.set(static_cast<std::int64_t>(i), values[i]);
  return tensor;
}

double relative_error(const Values& a, const Values& b, double floor) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double squares = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    if (a[i] != b[i]) squares += (a[i] - b[i]) * (a[i] - b[i]);  // equal infinities are no difference
  if (squares == 0) return 0;
  const double error = std::sqrt(squares) / std::max({norm(b), floor, 1e-300});
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

// Gradients that are zero by symmetry are compared on the scale of all gradients (see tensor_errors): the least norm of
// a tensor of n elements is this times √n.
double gradient_scale(const Graph& graph, const std::map<std::string, Values>& outputs) {
  double squares = 0, count = 0;
  for (const auto& output : graph.outputs)
    if (output.is(Role::gradient) || output.is(Role::accumulator)) {
      const Values& values = outputs.at(output.name);
      squares += norm(values) * norm(values);
      count += static_cast<double>(values.size());
    }
  return count > 0 ? tolerance::floor_of_norm * std::sqrt(squares / count) : 0;
}

double limit_for(const Precision& precision, DType dtype) {
  if (precision.dtype == DType::float64) return tolerance::float64;
  double roundoff = std::max(
      {unit_roundoff(precision.dtype), unit_roundoff(precision.gradient), unit_roundoff(precision.gradient_reduce)});
  if (is_floating(dtype)) roundoff = std::max(roundoff, unit_roundoff(dtype));
  return tolerance::locate_roundoffs * roundoff;
}

// One program: its inputs as the ranks hold them and whole.
class Location {
 public:
  Location(Session& session, const CompileRequest& request, const PassHook& after_pass, const CompiledModel& model,
           ProgramKind kind)
      : session_(session), request_(request), after_pass_(after_pass), kind_(kind), graph_(model.program(kind).graph) {}

  // Each step returns a sentence (on rank 0) when it found the place.
  std::string inputs(const std::map<std::string, HostTensor>& data) {
    std::string found;
    for (const auto& input : graph_.inputs) {
      const Value& value = graph_[input.value];
      HostTensor local(TensorType{local_shape(value.shape, value.layout, graph_.mesh), value.dtype});
      session_.executor().read(input.name, 0, std::as_writable_bytes(std::span(local.bytes)));
      bool replicas_differ = false;
      Values whole = gather_value(session_.world(), graph_, input.value, local, replicas_differ);
      local_[input.name] = std::move(local);
      if (value.role == Role::data && first()) {
        const Values wanted = values_of(data.at(input.name));
        std::size_t wrong = 0, where = 0;
        for (std::size_t i = whole.size(); i-- > 0;)
          if (whole[i] != wanted[i] && ++wrong) where = i;
        if (wrong && found.empty())
          found = fmt::format(
              "{}: the ranks' input {} is not the data: {} of {} elements differ, the first at sequence {} index {} "
              "({} instead of {}); the loader or the split of the sequence is at fault",
              name_of(kind_), input.name, wrong, whole.size(), where / static_cast<std::size_t>(value.shape[1]),
              where % static_cast<std::size_t>(value.shape[1]), whole[where], wanted[where]);
        whole = wanted;
      }
      if (value.role == Role::scalar)  // every rank holds it, whatever the graph says
        whole = values_of(local_[input.name]);
      else if (replicas_differ && found.empty() && first())
        found = fmt::format("{}: the ranks hold different copies of input {}", name_of(kind_), input.name);
      whole_[input.name] = std::move(whole);
    }
    return found;
  }

  // One device, after every pass. Rank 0 only.
  std::string passes() {
    std::vector<Graph> right;  // after each pass of the specification
    Graph graph = initial_graph(request_, kind_);
    run_passes(graph, {request_.options, kind_}, 0, specification_passes(), [&](const Pass* pass, const Graph& stage) {
      if (pass) right.push_back(stage);
    });
    std::vector<std::pair<const Pass*, Graph>> stages;
    graph = initial_graph(request_, kind_);
    const auto keep = [&](const Pass* pass, const Graph& stage) {
      if (pass) stages.emplace_back(pass, stage);
    };
    run_passes(graph, {request_.options, kind_}, 0, static_cast<int>(pipeline().size()), keep, after_pass_);
    std::map<std::string, Values> wanted;
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const auto& [pass, stage] = stages[i];
      try {
        // Lowered graphs are left to ops(), which names the collective.
        const std::string problem = pass->stage >= Stage::lowered ? "" : verify(stage, pass->stage);
        if (!problem.empty())
          return fmt::format("{}: after pass {} the graph is illegal: {}", name_of(kind_), pass->name, problem);
        if (i < right.size()) wanted = outputs(right[i]);
        const std::map<std::string, Values> have = outputs(stage);
        const double scale = gradient_scale(right[std::min(i, right.size() - 1)], wanted);
        std::string worst;
        double largest = 0;
        for (const auto& [name, values] : wanted) {
          if (!have.contains(name)) continue;
          const bool number = values.size() == 1;
          const double error =
              relative_error(have.at(name), values, number ? 0 : scale * std::sqrt(static_cast<double>(values.size())));
          if (error > largest) {
            largest = error;
            worst = name;
          }
        }
        if (largest > limit_for(request_.options.precision, request_.options.precision.dtype))
          return fmt::format(
              "{}: pass {} moved the meaning: on one device, the graph before it gives the specification's outputs and "
              "the graph after it does not (worst: {}, error {:.3g})",
              name_of(kind_), pass->name, worst, largest);
      } catch (const std::logic_error& error) {
        return fmt::format("{}: after pass {} the graph cannot run: {}", name_of(kind_), pass->name, error.what());
      }
    }
    return "";
  }

  // The lowered graph on the ranks against the same on one device, op by op.
  std::string ops() {
    const std::string meaning = fmt::format("{}: ", name_of(kind_));
    std::vector<Values> right(graph_.values.size());
    double scale = 0;
    if (first()) {
      std::map<std::string, HostTensor> given;
      for (const auto& input : graph_.inputs) given[input.name] = whole(input.name, graph_[input.value]);
      Interpreter one({.reference_only = session_.target().options().reference_only,
                       .threads = session_.target().options().threads,
                       .observer = [&](const Graph&, std::size_t i, std::vector<HostTensor*>& results) {
                         for (std::size_t k = 0; k < results.size(); ++k)
                           right[static_cast<std::size_t>(graph_.ops[i].results[k])] = values_of(*results[k]);
                       }});
      std::map<std::string, Values> result;
      for (const auto& [name, tensor] : one.run(graph_, given)) result[name] = values_of(tensor);
      scale = gradient_scale(graph_, result);
    }
    std::string found;
    Interpreter ranks(
        {.reference_only = session_.target().options().reference_only,
         .threads = session_.target().options().threads,
         .observer = [&](const Graph&, std::size_t i, std::vector<HostTensor*>& results) {
           const Op& op = graph_.ops[i];
           for (std::size_t k = 0; k < results.size(); ++k) {
             bool replicas_differ = false;
             const ValueId id = op.results[k];
             const Values have = gather_value(session_.world(), graph_, id, *results[k], replicas_differ);
             if (!first() || !found.empty()) continue;
             const Values& wanted = right[static_cast<std::size_t>(id)];
             const double floor =
                 op.phase == Phase::forward ? 0 : scale * std::sqrt(static_cast<double>(wanted.size()));
             const double error = relative_error(have, wanted, graph_[id].shape.empty() ? 0 : floor);
             if (error > limit_for(request_.options.precision, graph_[id].dtype) || replicas_differ)
               found = fmt::format(
                   "{}op #{} is the first whose result on the ranks differs from one device: {}\n    made by {}; error "
                   "{:.3g}{}",
                   meaning, i, print(graph_, op), op.made_by.empty() ? "the model" : op.made_by, error,
                   replicas_differ ? "; ranks that should hold the same hold different copies" : "");
           }
         }});
    run_outputs_ = ranks.run_rank(graph_, local_, session_.world());
    return found;
  }

  // After the executor has run the program: its outputs against those of the same graph op by op.
  std::string execution() {
    std::string found;
    std::map<std::string, std::pair<Values, Values>> both;
    for (const auto& output : graph_.outputs) {
      const HostTensor& wanted = run_outputs_.at(output.name);
      HostTensor have(wanted.type);
      session_.executor().read(output.name, 0, std::as_writable_bytes(std::span(have.bytes)));
      bool ignored = false;
      both[output.name] = {gather_value(session_.world(), graph_, output.value, have, ignored),
                           gather_value(session_.world(), graph_, output.value, wanted, ignored)};
    }
    std::map<std::string, Values> right;
    for (const auto& [name, pair] : both) right[name] = pair.second;
    const double scale = gradient_scale(graph_, right);
    for (const auto& [name, pair] : both) {
      const double floor = pair.second.size() == 1 ? 0 : scale * std::sqrt(static_cast<double>(pair.second.size()));
      const double error = relative_error(pair.first, pair.second, floor);
      if (first() && found.empty() && error > limit_for(request_.options.precision, request_.options.precision.dtype))
        found = fmt::format(
            "{}: every op agrees when it runs with buffers of its own, but the program gives another {} (error "
            "{:.3g}): the memory plan or the executor is at fault",
            name_of(kind_), name, error);
    }
    return found;
  }

 private:
  bool first() const { return session_.world().rank() == 0; }

  HostTensor whole(const std::string& name, const Value& value) const {
    // The specification reads the masters where a run of lower precision reads their copies.
    auto known = whole_.find(name);
    if (known == whole_.end() && value.role == Role::parameter)
      known = whole_.find(name_of(StateKey{Role::compute_parameter, name}));
    LONGHAUL_CHECK(known != whole_.end(), "no input {}", name);
    return tensor_of(value.shape, value.dtype, known->second);
  }

  std::map<std::string, Values> outputs(const Graph& graph) const {
    std::map<std::string, HostTensor> given;
    for (const auto& input : graph.inputs) given[input.name] = whole(input.name, graph[input.value]);
    std::map<std::string, Values> result;
    Interpreter one{InterpreterOptions()};
    for (const auto& [name, tensor] : one.run(graph, given)) result[name] = values_of(tensor);
    return result;
  }

  Session& session_;
  const CompileRequest& request_;
  const PassHook& after_pass_;
  const ProgramKind kind_;
  const Graph& graph_;
  std::map<std::string, HostTensor> local_, run_outputs_;
  std::map<std::string, Values> whole_;
};

}  // namespace

std::vector<double> gather_value(Communicator& world, const Graph& graph, ValueId value, const HostTensor& local,
                                 bool& replicas_differ) {
  const Mesh& mesh = graph.mesh;
  const Shape& shape = graph[value].shape;
  const Layout& layout = graph[value].layout;
  const auto ranks = static_cast<std::size_t>(world.size());
  const std::size_t bytes = local.bytes.size();
  std::vector<char> all(std::max<std::size_t>(1, bytes * ranks));
  if (bytes) world.all_gather(local.data(), all.data(), bytes);
  Values whole(static_cast<std::size_t>(element_count(shape)), 0.0);
  const AxisSet own = layout.split() | layout.partial;  // ranks that differ on other axes only hold the same part
  replicas_differ = false;
  const Shape extent = local_shape(shape, layout, mesh);
  HostTensor part(TensorType{extent, graph[value].dtype});
  for (int rank = 0; rank < world.size(); ++rank) {
    int holder = 0;
    const auto same_part = [&](int other) {
      for (int axis = 0; axis < static_cast<int>(mesh.axes().size()); ++axis)
        if ((own >> axis & 1) && mesh.coordinate(rank, axis) != mesh.coordinate(other, axis)) return false;
      return true;
    };
    while (!same_part(holder)) ++holder;
    const char* from = all.data() + static_cast<std::size_t>(rank) * bytes;
    if (holder != rank) {
      replicas_differ |= std::memcmp(from, all.data() + static_cast<std::size_t>(holder) * bytes, bytes) != 0;
      continue;
    }
    std::memcpy(part.data(), from, bytes);
    if (!layout.flat.empty()) {
      const std::int64_t begin = extent[0] * mesh.index(layout.flat, rank);
      for (std::int64_t i = 0; i < extent[0] && begin + i < static_cast<std::int64_t>(whole.size()); ++i)
        whole[static_cast<std::size_t>(begin + i)] += part.at(i);
      continue;
    }
    for (std::int64_t i = 0; i < part.type.count(); ++i) {
      std::int64_t rest = i, offset = 0, stride = 1;
      bool inside = true;
      for (std::size_t d = shape.size(); d-- > 0;) {
        const int chunks = mesh.count(layout.dimensions[d].axes);
        const int chunk =
            (mesh.index(layout.dimensions[d].axes, rank) - layout.dimensions[d].rotation + chunks) % chunks;
        const std::int64_t place = chunk * extent[d] + rest % extent[d];
        inside &= place < shape[d];
        offset += place * stride;
        stride *= shape[d];
        rest /= extent[d];
      }
      if (inside) whole[static_cast<std::size_t>(offset)] += part.at(i);
    }
  }
  return whole;
}

std::vector<std::string> locate_difference(
    Session& session, const CompileRequest& request, const PassHook& after_pass, const CompiledModel& model,
    std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
    const std::function<std::map<std::string, HostTensor>(std::int64_t)>& data_of) {
  Communicator& world = session.world();
  // Rank 0 knows what was found; all must take the same way.
  const auto known_to_all = [&](const std::string& found) { return broadcast(world, !found.empty()); };
  std::vector<ProgramKind> done;
  const auto search = [&](ProgramKind kind,
                          const std::map<std::string, HostTensor>& data) -> std::optional<std::string> {
    const bool fresh = std::find(done.begin(), done.end(), kind) == done.end();
    done.push_back(kind);
    if (!fresh) {
      session.executor().run(model.index(kind));
      return std::nullopt;
    }
    Location location(session, request, after_pass, model, kind);
    std::string found = location.inputs(data);
    if (known_to_all(found)) return found;
    if (world.rank() == 0) found = location.passes();
    if (known_to_all(found)) return found;
    found = location.ops();
    if (known_to_all(found)) return found;
    session.executor().run(model.index(kind));
    found = location.execution();
    if (known_to_all(found)) return found;
    return std::nullopt;
  };
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    session.load(fill, i);
    std::map<std::string, HostTensor> data;
    if (world.rank() == 0) data = data_of(i);
    if (const auto found = search(accumulate_kind(i, micro_batches), data)) return {*found};
  }
  if (const auto found = search(ProgramKind::update, {})) return {*found};
  return {
      "no pass, op or program of the step differs from its specification within the limits of --locate: the difference "
      "is rounding that grew, or lies outside the programs (what is loaded, counted or compared)"};
}

}  // namespace longhaul
