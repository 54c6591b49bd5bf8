// Tensor maps for the copy engine.
#pragma once
#include "kernels/cuda/attention_common.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {

/// [b, rows, heads, head_dim] bf16 as {head_dim, rows, heads, b}; a box is 64 columns of box_rows rows of one head,
/// which lands with 128-byte swizzle. What lies outside reads as 0.
inline gpu::TensorMap tensor_map(const HeadTensor& tensor, std::int64_t batch, std::int64_t rows, std::int64_t heads,
                                 std::int64_t head_dim, int box_rows) {
#ifdef __CUDACC__
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
  require(entry && found == cudaDriverEntryPointSuccess,
          "the driver has no cuTensorMapEncodeTiled: it is older than CUDA 12");
  gpu::TensorMap map;
  const cuuint64_t extents[4] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(rows),
                                 static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(batch)};
  const cuuint64_t strides[3] = {static_cast<cuuint64_t>(tensor.strides.row) * 2,
                                 static_cast<cuuint64_t>(tensor.strides.head) * 2,
                                 static_cast<cuuint64_t>(tensor.strides.batch) * 2};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_rows), 1, 1}, ones[4] = {1, 1, 1, 1};
  const CUresult status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<gpu::bfloat16*>(tensor.data), extents, strides, box, ones,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled failed with status " + std::to_string(status));
  return map;
#else
  return {tensor.data,
          {head_dim, rows, heads, batch},
          {1, tensor.strides.row, tensor.strides.head, tensor.strides.batch},
          {64, box_rows, 1, 1}};
#endif
}

}  // namespace longhaul::cuda
