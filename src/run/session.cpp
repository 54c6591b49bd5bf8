#include "run/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "run/setup.h"
#include "runtime/collective_order.h"

namespace longhaul {
namespace {

// Of state that is moved through host memory, at a time.
constexpr std::int64_t piece_elements = 1 << 20;

// Before anything collective is made of them.
std::vector<const Program*> agreed(Communicator& world, const CompiledModel& model) {
  const auto programs = model.all();
  check_collective_order(world, programs);
  return programs;
}

}  // namespace

Session::Session(Communicator& world, Target& target, const CompileRequest& request, const CompiledModel& model,
                 LoadHook after_load)
    : world_(world),
      target_(target),
      request_(request),
      model_(model),
      executor_(target.executor(world, agreed(world, model), model.named)),
      placement_(request.mesh, request.options.placement, request.sequence, attention_layers(request.spec)),
      after_load_(std::move(after_load)) {
  const Mesh& mesh = request.mesh;
  const AxisList batch = mesh.axes(request.options.placement.batch_axes),
                 sequence = mesh.axes(request.options.placement.sequence_axes);
  data_ranks_ = mesh.count(batch);
  data_rank_ = mesh.index(batch, world.rank());
  rows_ = request.batch / data_ranks_;
  slots_ = request.sequence / mesh.count(sequence);
  batch_.resize(static_cast<std::size_t>(rows_ * slots_));
  LONGHAUL_CHECK(!counts_on_host() || data_ranks_ * mesh.count(sequence) == world.size(),
                 "tokens that several ranks have would be counted twice");
  find_state();
}

void Session::find_state() {
  const Mesh& mesh = request_.mesh;
  for (const Program* program : model_.all())
    for (const auto* bindings : {&program->graph.inputs, &program->graph.outputs})
      for (const auto& binding : *bindings) {
        const Value& value = program->graph[binding.value];
        if (!binding.state || lives_within_a_step(binding.state->role)) continue;
        const auto known = std::find_if(state_.begin(), state_.end(),
                                        [&](const StateTensor& tensor) { return tensor.name == binding.name; });
        if (known != state_.end()) continue;
        StateTensor tensor;
        tensor.key = *binding.state;
        tensor.name = binding.name;
        tensor.shape = value.shape;
        tensor.dtype = value.dtype;
        tensor.shards = value.layout.flat;
        tensor.whole = tensor.shards.empty();
        tensor.copy = mesh.index(mesh.live().without(tensor.shards.set()), world_.rank());
        LONGHAUL_CHECK(value.layout.partial == 0 && (!tensor.whole || value.layout.is_whole()), "state {} is {}",
                       binding.name, value.layout.text(mesh));
        const std::int64_t count = element_count(value.shape);
        tensor.end = count;
        tensor.chunk = local_count(value.shape, value.layout, mesh);
        if (!tensor.whole) {
          tensor.begin = std::min(count, tensor.chunk * mesh.index(value.layout.flat, world_.rank()));
          tensor.end = std::min(count, tensor.begin + tensor.chunk);
        }
        state_.push_back(std::move(tensor));
      }
}

const StateTensor& Session::state(std::string_view name) const {
  for (const auto& tensor : state_)
    if (tensor.name == name) return tensor;
  LONGHAUL_CHECK(false, "no state {}", name);
}

std::int64_t Session::place(const StateTensor& tensor, std::int64_t begin, std::size_t bytes) const {
  const auto size = static_cast<std::int64_t>(size_of(tensor.dtype));
  LONGHAUL_CHECK(begin >= tensor.begin && begin * size + static_cast<std::int64_t>(bytes) <= tensor.end * size,
                 "{} bytes of {} from element {} on, of which this rank holds [{}, {})", bytes, tensor.name, begin,
                 tensor.begin, tensor.end);
  return (begin - tensor.begin) * size;
}

void Session::read(const StateTensor& tensor, std::int64_t begin, std::span<std::byte> to) {
  executor_->read(tensor.name, place(tensor, begin, to.size()), to);
}

void Session::write(const StateTensor& tensor, std::int64_t begin, std::span<const std::byte> from) {
  executor_->write(tensor.name, place(tensor, begin, from.size()), from);
}

std::span<const std::byte> Session::elements(const StateTensor& tensor, std::int64_t begin, std::int64_t end,
                                             std::vector<std::byte>& room) {
  const std::size_t bytes = static_cast<std::size_t>(end - begin) * size_of(tensor.dtype);
  const std::int64_t at = place(tensor, begin, bytes);
  if (const auto view = executor_->host_view(tensor.name); !view.empty())
    return view.subspan(static_cast<std::size_t>(at), bytes);
  room.resize(bytes);
  executor_->read(tensor.name, at, room);
  return room;
}

void Session::fill_elements(const StateTensor& tensor, const ElementFill& fill) {
  if (const auto view = executor_->host_view(tensor.name); !view.empty())
    return fill(tensor.begin, tensor.end, view.data());
  std::vector<std::byte> room;
  for (std::int64_t begin = tensor.begin; begin < tensor.end; begin += piece_elements) {
    const std::int64_t end = std::min(tensor.end, begin + piece_elements);
    room.resize(static_cast<std::size_t>(end - begin) * size_of(tensor.dtype));
    fill(begin, end, room.data());
    write(tensor, begin, room);
  }
}

void Session::set_parameters(const ParameterSource& source) {
  for (const auto& tensor : state_) {
    if (tensor.key.role == Role::parameter)
      fill_elements(tensor, [&](std::int64_t begin, std::int64_t end, void* target) {
        source(tensor.name, begin, end, tensor.dtype, target);
      });
    if (is_moment(tensor.key.role)) executor_->zero(tensor.name);
  }
  refresh_compute_copies(source);
}

void Session::refresh_compute_copies(const ParameterSource& source) {
  std::vector<char> master;
  const DType dtype = request_.options.precision.master();
  for (const auto& tensor : state_) {
    if (tensor.key.role != Role::compute_parameter) continue;
    fill_elements(tensor, [&](std::int64_t from, std::int64_t to, void* target) {
      // In pieces: a whole copy in the master dtype would double the memory of the largest tensor.
      for (std::int64_t begin = from; begin < to; begin += piece_elements) {
        const std::int64_t end = std::min(to, begin + piece_elements);
        master.resize(static_cast<std::size_t>(end - begin) * size_of(dtype));
        source(tensor.key.parameter, begin, end, dtype, master.data());
        dispatch_floating(tensor.dtype, [&](auto zero) {
          using T = decltype(zero);
          T* const copies = static_cast<T*>(target) + (begin - from);
          const auto* masters = reinterpret_cast<const float*>(master.data());
          for (std::int64_t i = 0; i < end - begin; ++i) copies[i] = static_cast<T>(masters[i]);
        });
      }
    });
  }
}

void Session::load(const std::function<void(std::int64_t)>& fill, std::int64_t i) {
  fill(i);
  if (after_load_) after_load_(batch_, rows_, slots_);
  upload();
}

void Session::upload() {
  for (const BatchField& field : batch_fields) {
    const std::vector<std::int32_t>& values = batch_.*field.values;
    LONGHAUL_CHECK(values.size() == static_cast<std::size_t>(rows_ * slots_), "{} {} of {} rows of {}", values.size(),
                   field.name, rows_, slots_);
    executor_->write(field.name, 0, std::as_bytes(std::span(values)));
  }
}

double Session::count(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill) {
  double valid = 0;
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    load(fill, i);
    if (counts_on_host()) {
      for (const std::int32_t label : batch_.labels) valid += label >= 0;
      continue;
    }
    executor_->run(model_.index(ProgramKind::count));
    valid += executor_->scalar("valid_tokens");
  }
  if (!counts_on_host() || world_.size() == 1) return valid;
  const std::vector<double> all = all_gather(world_, valid);
  return std::accumulate(all.begin(), all.end(), 0.0);
}

double Session::queue_accumulation(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
                                   const std::function<void(std::int64_t)>& after) {
  const double valid_tokens = count(micro_batches, fill);
  // A step without any valid token has loss 0 and gradients 0, not NaN.
  executor_->set_scalar("inverse_count", 1 / std::max(1.0, valid_tokens));
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    if (micro_batches > 1) load(fill, i);  // one micro-batch is still in its buffers
    executor_->run(model_.index(accumulate_kind(i, micro_batches)));
    after(i);
  }
  return valid_tokens;
}

StepResult Session::accumulate(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
                               const std::function<void(std::int64_t)>& after) {
  StepResult result;
  const bool notes = target_.has_own_memory();
  if (notes) executor_->kept_scalars();  // of a step that failed
  const auto took = [&](std::int64_t i) {
    if (notes)
      executor_->keep_scalar("loss");
    else
      result.loss += executor_->scalar("loss");
    if (after) after(i);
  };
  result.valid_tokens = queue_accumulation(micro_batches, fill, std::cref(took));  // which allocates nothing
  if (notes)
    for (const double loss : executor_->kept_scalars()) result.loss += loss;
  return result;
}

void Session::queue_update(std::int64_t step, double learning_rate) {
  executor_->set_scalar("step", static_cast<double>(step));
  executor_->set_scalar("learning_rate", learning_rate);
  executor_->run(model_.index(ProgramKind::update));
}

double Session::update(std::int64_t step, double learning_rate) {
  queue_update(step, learning_rate);
  return executor_->scalar("grad_norm");
}

StepResult Session::step(std::int64_t step, double learning_rate, std::int64_t micro_batches,
                         const std::function<void(std::int64_t)>& fill, bool only_learning) {
  if (!target_.has_own_memory()) {
    StepResult result = accumulate(micro_batches, fill);
    if (result.valid_tokens > 0 || !only_learning) result.grad_norm = update(step, learning_rate);
    return result;
  }
  StepResult result;
  executor_->kept_scalars();  // of a step that failed
  result.valid_tokens =
      queue_accumulation(micro_batches, fill, [this](std::int64_t) { executor_->keep_scalar("loss"); });
  const bool updates = result.valid_tokens > 0 || !only_learning;
  if (updates) {
    queue_update(step, learning_rate);
    executor_->keep_scalar("grad_norm");
  }
  std::vector<double> kept = executor_->kept_scalars();
  if (updates) {
    result.grad_norm = kept.back();
    kept.pop_back();
  }
  for (const double loss : kept) result.loss += loss;
  return result;
}

int Session::part_of(const StateTensor& tensor, int rank) const {
  return tensor.whole ? 0 : request_.mesh.index(tensor.shards, rank);
}

double Session::gradient_norm() {
  double sum = 0;
  std::vector<std::byte> room;
  for (const auto& tensor : state_) {
    // Of equal copies the first rank's counts.
    if (tensor.key.role != Role::gradient || tensor.copy != 0) continue;
    const auto own = elements(tensor, tensor.begin, tensor.end, room);
    dispatch_floating(tensor.dtype, [&](auto zero) {
      using T = decltype(zero);
      const T* values = reinterpret_cast<const T*>(own.data());
      for (std::int64_t i = 0; i < tensor.elements(); ++i) {
        const auto value = static_cast<double>(static_cast<accumulate_t<T>>(values[i]));
        sum += value * value;
      }
    });
  }
  double total = 0;
  for (const double one : all_gather(world_, sum)) total += one;
  return std::sqrt(total);
}

std::pair<double, double> Session::evaluate() {
  upload();
  executor_->run(model_.index(ProgramKind::evaluate));
  return {executor_->scalar("loss_sum"), executor_->scalar("valid_tokens")};
}

void Session::token_losses(std::vector<double>& losses) const {
  losses.resize(static_cast<std::size_t>(rows_ * slots_));
  if (request_.options.precision.master() == DType::float64)
    return executor_->read("token_losses", 0, std::as_writable_bytes(std::span(losses)));
  std::vector<float> narrow(losses.size());
  executor_->read("token_losses", 0, std::as_writable_bytes(std::span(narrow)));
  std::copy(narrow.begin(), narrow.end(), losses.begin());
}

std::vector<double> Session::gather(const StateTensor& tensor) {
  const std::int64_t count = element_count(tensor.shape);
  const std::size_t size = size_of(tensor.dtype);
  std::vector<std::byte> room;
  const auto own = elements(tensor, tensor.begin, tensor.end, room);
  std::vector<char> bytes;
  const char* from = reinterpret_cast<const char*>(own.data());
  if (!tensor.whole) {
    const std::int64_t shards = request_.mesh.count(tensor.shards);
    std::vector<char> mine(static_cast<std::size_t>(tensor.chunk) * size, 0);
    if (!own.empty()) std::memcpy(mine.data(), from, own.size());
    std::vector<char> all(mine.size() * static_cast<std::size_t>(world_.size()));
    world_.all_gather(mine.data(), all.data(), mine.size());
    bytes.resize(mine.size() * static_cast<std::size_t>(shards));
    for (int rank = world_.size(); rank-- > 0;)  // of equal copies the first rank's stays
      std::memcpy(bytes.data() + mine.size() * static_cast<std::size_t>(request_.mesh.index(tensor.shards, rank)),
                  all.data() + mine.size() * static_cast<std::size_t>(rank), mine.size());
    from = bytes.data();
  }
  std::vector<double> values(static_cast<std::size_t>(count));
  if (tensor.dtype == DType::uint8) {
    for (std::int64_t i = 0; i < count; ++i)
      values[static_cast<std::size_t>(i)] = static_cast<unsigned char>(from[static_cast<std::size_t>(i)]);
    return values;
  }
  dispatch_floating(tensor.dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t i = 0; i < count; ++i) {
      T element;
      std::memcpy(&element, from + static_cast<std::size_t>(i) * size, size);
      values[static_cast<std::size_t>(i)] = static_cast<double>(static_cast<accumulate_t<T>>(element));
    }
  });
  return values;
}

}  // namespace longhaul
