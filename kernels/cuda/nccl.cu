// NCCL, opened when first used: a machine without it still runs everything else. Nothing here waits for another rank.
#include "kernels/cuda/device.h"
#ifdef LONGHAUL_WITH_NCCL
#include <nccl.h>

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/library.h"

namespace longhaul::cuda {
namespace {

#define LONGHAUL_NCCL(name) decltype(&nccl##name) name = symbol<decltype(&nccl##name)>(library, "nccl" #name)
struct Nccl {
  void* library = open_library({"libnccl.so.2", "libnccl.so"});
  LONGHAUL_NCCL(GetVersion);
  LONGHAUL_NCCL(GetUniqueId);
  LONGHAUL_NCCL(CommInitRankConfig);
  LONGHAUL_NCCL(CommGetAsyncError);
  LONGHAUL_NCCL(CommAbort);
  LONGHAUL_NCCL(CommFinalize);
  LONGHAUL_NCCL(CommDestroy);
  LONGHAUL_NCCL(AllReduce);
  LONGHAUL_NCCL(AllGather);
  LONGHAUL_NCCL(ReduceScatter);
  LONGHAUL_NCCL(Send);
  LONGHAUL_NCCL(Recv);
  LONGHAUL_NCCL(GroupStart);
  LONGHAUL_NCCL(GroupEnd);
  LONGHAUL_NCCL(GetErrorString);
  LONGHAUL_NCCL(GetLastError);
};
#undef LONGHAUL_NCCL
const Nccl& nccl() {
  static const Nccl functions = [] {
    // Operations of several communicators run in the order in which the host issues them, the same on every rank (from
    // 2.26 on; before, one stream a rank gives that order by itself). What the user has set stays.
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
    return Nccl();
  }();
  return functions;
}

ncclComm_t communicator_of(void* communicator) {
  return static_cast<ncclComm_t>(communicator);
}
void check(ncclResult_t status, const char* what, void* communicator = nullptr) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  const char* const more = nccl().GetLastError(communicator_of(communicator));
  throw CallError(std::string(what) + ": " + nccl().GetErrorString(status) + (more && *more ? ": " : "") +
                  (more ? more : ""));
}
ncclDataType_t nccl_type(Type type) {
  return type == Type::bfloat16 ? ncclBfloat16 : type == Type::float32 ? ncclFloat32 : ncclFloat64;
}

void nccl_version(std::int32_t* version) {
  int found = 0;
  check(nccl().GetVersion(&found), "ncclGetVersion");
  *version = found;
}
void nccl_unique_id(char* id) {
  static_assert(sizeof(ncclUniqueId) == 128);
  check(nccl().GetUniqueId(reinterpret_cast<ncclUniqueId*>(id)), "ncclGetUniqueId");
}
void nccl_begin(const char* id, std::int32_t rank, std::int32_t ranks, void** communicator) {
  ncclUniqueId copy;
  std::memcpy(&copy, id, sizeof copy);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  *communicator = nullptr;
  // To the caller's own place: an older NCCL writes there after it has returned.
  check(nccl().CommInitRankConfig(reinterpret_cast<ncclComm_t*>(communicator), ranks, copy, rank, &config),
        "ncclCommInitRankConfig");
}
void nccl_state(void* communicator, std::int32_t* in_progress) {
  ncclResult_t state = ncclSuccess;
  check(nccl().CommGetAsyncError(communicator_of(communicator), &state), "ncclCommGetAsyncError", communicator);
  *in_progress = state == ncclInProgress;
  check(state, "NCCL", communicator);
}
void nccl_abort(void* communicator) {
  check(nccl().CommAbort(communicator_of(communicator)), "ncclCommAbort");
}
void nccl_finalize(void* communicator) {
  check(nccl().CommFinalize(communicator_of(communicator)), "ncclCommFinalize", communicator);
}
void nccl_destroy(void* communicator) {
  check(nccl().CommDestroy(communicator_of(communicator)), "ncclCommDestroy");
}

void nccl_exchange(void* communicator, const NcclTransfer* transfers, std::int32_t count, Stream stream) {
  const ncclComm_t group = communicator_of(communicator);
  check(nccl().GroupStart(), "ncclGroupStart", communicator);
  ncclResult_t status = ncclSuccess;
  const auto issue = [&](ncclResult_t issued) {
    if (issued != ncclSuccess && issued != ncclInProgress && status == ncclSuccess) status = issued;
  };
  for (std::int32_t i = 0; i < count; i++) {
    const NcclTransfer& one = transfers[i];
    if (one.send_bytes > 0) issue(nccl().Send(one.send, one.send_bytes, ncclInt8, one.peer, group, native(stream)));
    if (one.receive_bytes > 0)
      issue(nccl().Recv(one.receive, one.receive_bytes, ncclInt8, one.peer, group, native(stream)));
  }
  const ncclResult_t ended = nccl().GroupEnd();  // also after a refusal: a group must not stay open
  check(status, "ncclSend or ncclRecv", communicator);
  check(ended, "ncclGroupEnd", communicator);
}
void nccl_all_gather(void* communicator, const void* send, void* receive, std::int64_t bytes_per_rank, Stream stream) {
  check(nccl().AllGather(send, receive, bytes_per_rank, ncclInt8, communicator_of(communicator), native(stream)),
        "ncclAllGather", communicator);
}
void nccl_all_reduce(void* communicator, const void* send, void* receive, std::int64_t count, Type type,
                     Stream stream) {
  check(nccl().AllReduce(send, receive, count, nccl_type(type), ncclSum, communicator_of(communicator), native(stream)),
        "ncclAllReduce", communicator);
}
void nccl_reduce_scatter(void* communicator, const void* send, void* receive, std::int64_t count_per_rank, Type type,
                         Stream stream) {
  check(nccl().ReduceScatter(send, receive, count_per_rank, nccl_type(type), ncclSum, communicator_of(communicator),
                             native(stream)),
        "ncclReduceScatter", communicator);
}

}  // namespace

void device::add_nccl(Api& api) {
  api.nccl_version = Guarded<nccl_version>::call;
  api.nccl_unique_id = Guarded<nccl_unique_id>::call;
  api.nccl_begin = Guarded<nccl_begin>::call;
  api.nccl_state = Guarded<nccl_state>::call;
  api.nccl_abort = Guarded<nccl_abort>::call;
  api.nccl_finalize = Guarded<nccl_finalize>::call;
  api.nccl_destroy = Guarded<nccl_destroy>::call;
  api.nccl_exchange = Guarded<nccl_exchange>::call;
  api.nccl_all_gather = Guarded<nccl_all_gather>::call;
  api.nccl_all_reduce = Guarded<nccl_all_reduce>::call;
  api.nccl_reduce_scatter = Guarded<nccl_reduce_scatter>::call;
}

}  // namespace longhaul::cuda
#else
void longhaul::cuda::device::add_nccl(Api&) {}
#endif
