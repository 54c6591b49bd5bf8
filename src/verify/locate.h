// Where a run begins to differ from its specification: the first pass that moved the meaning, and the first op whose
// result on the ranks is not what it is on one device.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "run/session.h"
#include "runtime/cpu/interpreter.h"

namespace longhaul {

/// Lays the parts that the ranks hold of a value together: the whole value, as doubles, on every rank; collective over
/// the world. `local` is this rank's part, in its local shape. Parts that several ranks hold alike are taken from the
/// first; `replicas_differ` is set when the others have other bits.
std::vector<double> gather_value(Communicator& world, const Graph& graph, ValueId value, const HostTensor& local,
                                 bool& replicas_differ);

/// Runs the programs of one step, op by op: first on one device after every pass, then on the ranks, each op's results
/// gathered and compared with those on one device. `fill(i)` fills the session's buffers with micro-batch i as step()
/// takes it. `after_pass` is what `model` was compiled with. `data_of(i)` gives micro-batch i whole, padded, by input
/// name; only rank 0 asks. Returns on rank 0 what was found, one sentence each; never empty. Collective. Meant for
/// small models: every value of a program is kept.
std::vector<std::string> locate_difference(
    Session& session, const CompileRequest& request, const PassHook& after_pass, const CompiledModel& model,
    std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
    const std::function<std::map<std::string, HostTensor>(std::int64_t)>& data_of);

}  // namespace longhaul
