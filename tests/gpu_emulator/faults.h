// Defects that the tests can plant in the kernels (GPU_FAULT), one at a time, in the emulator's build only.
// tests/gpu_emulator/planted_faults_test.cpp says which problem each is looked for on.
#pragma once

namespace longhaul {

enum PlantedFault {
  no_fault,
  // the mask
  mask_window_one_short,
  // attention_forward.cuh
  forward_barrier,
  forward_copy_wait,
  forward_row_stride,
  forward_mask,
  forward_tail_rows,
  forward_no_rescale,
  // attention_backward.cuh
  backward_barrier,
  backward_copy_wait,
  backward_row_stride,
  backward_mask,
  backward_stage_overwritten,
  backward_no_delta,
  backward_part_lost,
  // attention_forward_hopper.cuh
  hopper_forward_no_release,
  hopper_forward_key_wait,
  hopper_forward_query_wait,
  hopper_forward_swizzle_step,
  hopper_forward_early_release,
  hopper_forward_wgmma_wait,
  hopper_forward_value_stride,
  hopper_forward_bytes_expected,
  hopper_forward_register_greed,
  hopper_forward_init_fence,
  hopper_forward_registers_reused,
  // attention_backward_hopper.cuh
  hopper_backward_proxy_fence,
  hopper_backward_barrier,
  hopper_backward_dq_overwritten,
  hopper_backward_half_barrier,
  hopper_backward_turns_ignored,
  hopper_backward_mask,
  // vectors.cuh, norm.cu, embedding.cu, loss_head.cu, copy.cu
  team_sum_barrier,
  norm_backward_turn_barrier,
  sort_scan_barrier,
  loss_tile_barrier,
  loss_tile_label_overwritten,
  softmax_merge_stale_statistics,
  // collectives.cu
  peer_signal_missing,
  peer_wait_missing,
  peer_epoch_behind,
  peer_sum_order,
  peer_single_buffer,
  peer_counter_stands,
  // the generic kernels
  column_sums_first_lost,
  loss_rows_label_overwritten,
  generic_attention_window,
  table_boundary,
  optimizer_scalars_barrier,
  squares_partial_lost,
  // waves.h, and wave_kernels.cpp of the tests: they show on waves of 64 lanes alone
  wave_shuffle_width,
  wave_ballot_low,
  wave_lane_chain,
  wave_barrier_in_arms,
  wave_sync_in_arms,
  last_fault
};

}  // namespace longhaul
