// The keys that say how a run is kept, watched and placed, not what it computes.
#include "config/key_access.h"

namespace longhaul::config {

using E = Experiment;

std::vector<Key> running_keys() {
  return {
      {"checkpoint", "interval", member<&E::checkpoint, &E::Checkpoint::interval>, "500",
       "Steps between checkpoints. One more is always written after the last step and when a signal or a limit stops "
       "the "
       "run; 0: no others.",
       count_from(0)},
      {"checkpoint", "minutes", member<&E::checkpoint, &E::Checkpoint::minutes>, "null",
       "Minutes after the last checkpoint at which another is written, whatever interval says. null: steps alone "
       "decide.",
       at_least(0)},
      {"checkpoint", "keep_latest_k", member<&E::checkpoint, &E::Checkpoint::keep_latest_k>, "2",
       "How many checkpoints are kept; 0: all.", small_count_from(0)},
      {"checkpoint", "asynchronous", member<&E::checkpoint, &E::Checkpoint::asynchronous>, "false",
       "true: a save copies a rank's masters and moments to host memory (as many bytes as they have, kept for the run "
       "and "
       "counted against device.memory), and a thread writes them while steps go on. The files are the same. A save "
       "that is "
       "still running at the next interval, or at the end, is waited for."},
      {"checkpoint", "max_failures", member<&E::checkpoint, &E::Checkpoint::max_failures>, "3",
       "Checkpoints in a row that the system may refuse (a full disk) before the run stops. Each is a warning and is "
       "tried "
       "again at the next interval; the last step's must succeed. 1: the first one stops the run.",
       small_count_from(1)},
      {"checkpoint",
       "resume",
       choice<&E::checkpoint, &E::Checkpoint::resume>(),
       "auto",
       "auto: continue from the newest whole checkpoint in the run folder, if there is one; damaged ones are skipped "
       "with "
       "a warning, and when all are damaged the run is refused. restart: the same, but when all are damaged the run "
       "starts again at step 0. off: refuse a run folder that has been used. A checkpoint that the system does not let "
       "be read, or that a newer program wrote, ends the run.",
       {},
       {"auto", "off", "restart"}},

      {"checkpoint", "verify_replicas", member<&E::checkpoint, &E::Checkpoint::verify_replicas>, "0",
       "Steps between comparisons of what several ranks hold of the same (parameters, moments, and the copies of "
       "masters "
       "that compute uses), by checksum; a difference ends the run and names tensor and ranks. Every save does it too; "
       "0: "
       "only those.",
       count_from(0)},
      {"checkpoint", "verify_steps", member<&E::checkpoint, &E::Checkpoint::verify_steps>, "0",
       "Steps between those that are computed twice before they are taken; gradients and loss must be the same bits on "
       "every rank, else the run ends and names rank and host. It finds what memory or a processor changes silently, "
       "for one more forward and backward pass each. 0: none.",
       count_from(0)},

      {"metrics", "log_freq", member<&E::metrics, &E::Metrics::log_freq>, "10",
       "Steps between lines on the console, where the first step of a start, the last and those with a validation "
       "always "
       "have one. It thins the console only: metrics.jsonl has a line for every step.",
       count_from(1)},

      {"metrics", "tensorboard", member<&E::metrics, &E::Metrics::tensorboard>, "false",
       "true: the numbers of metrics.jsonl also go to tensorboard/ of the run folder, as event files that TensorBoard "
       "reads."},

      {"sample", "prompts", member<&E::sample, &E::Sample::prompts>, "[]",
       "Texts that the model goes on with; each answer goes to the log and to samples.jsonl of the run folder. They "
       "are "
       "read by the tokenizer of the data: refused for token files without data.tokenizer and without one beside "
       "model.config."},
      {"sample", "interval", member<&E::sample, &E::Sample::interval>, "0",
       "Steps between samples; 0: only after the last step, when there are always some.", count_from(0)},
      {"sample",
       "max_tokens",
       member<&E::sample, &E::Sample::max_tokens>,
       "64",
       "New tokens after each prompt; fewer where the end token comes.",
       {1, 1 << 20, false}},
      {"sample", "temperature", member<&E::sample, &E::Sample::temperature>, "0.0",
       "0: always the likeliest token; above: tokens are drawn, logits divided by it.", at_least(0)},
      {"sample",
       "top_p",
       member<&E::sample, &E::Sample::top_p>,
       "1.0",
       "Draws from the likeliest tokens only, as few as have this much of the probability.",
       {0, 1, false}},
      {"sample", "seed", member<&E::sample, &E::Sample::seed>, "0", "Seed of the draws.", at_least(0)},

      {"export", "interval", member<&E::exports, &E::Export::interval>, "0",
       "Steps between exports into exports/step-N of the run folder; 0: none besides export/ after the last step.",
       count_from(0)},
      {"export", "keep_latest_k", member<&E::exports, &E::Export::keep_latest_k>, "2",
       "So many folders of exports/ are kept; 0: all.", small_count_from(0)},
      {"export",
       "dtype",
       optional_choice<&E::exports, &E::Export::dtype>(),
       "auto",
       "Of the written weights, also of the last export. auto: that of the masters.",
       {},
       {"float64", "float32", "bfloat16"}},
      {"export",
       "max_shard_size",
       member<&E::exports, &E::Export::max_shard_size>,
       "0",
       "Bytes that a file of weights may have, but for a tensor that alone is larger; then there is an index. 0: one "
       "file.",
       {0, 1e15, false}},

      {"validation", "freq", member<&E::validation, &E::Validation::freq>, "0",
       "Steps between validations; 0: only after the last step, when there is always one.", count_from(0)},
      {"validation", "steps", member<&E::validation, &E::Validation::steps>, "0",
       "Global batches of each set per validation; 0: the whole set.", small_count_from(0)},
      {"validation", "at_start", member<&E::validation, &E::Validation::at_start>, "false",
       "true: also before the first step; metrics.jsonl then begins with a line of step 0."},
      {"validation",
       "sets",
       member<&E::validation, &E::Validation::sets>,
       "{}",
       "Validation sets by name, besides data.validation_files: files, patterns and folders, and where theirs are "
       "other "
       "than those of section data format, mask_prompt and train_on. Their losses are `validation_loss.NAME` in "
       "metrics, "
       "and `validation_loss_by_position.NAME` by how much context a token had.",
       {},
       {"files", "format", "mask_prompt", "train_on"}},

      {"distributed", "timeout", member<&E::distributed, &E::Distributed::timeout>, "1800",
       "Seconds that ranks wait, for one that does not come to a collective or for a step that does not end, before "
       "the "
       "job is ended with exit code 86 and a report of who is missing (the report itself comes within seconds, and the "
       "run goes on if they come). 0: never.",
       at_least(0)},
      {"distributed", "different_cpus", member<&E::distributed, &E::Distributed::different_cpus>, "false",
       "true: ranks may run on CPUs of different models, instruction sets and numbers of threads, which round "
       "differently; the log says which. false: that is refused."},

      {"device",
       "type",
       choice<&E::device, &E::Device::type>(),
       "cpu",
       "Where ranks compute. cuda: an NVIDIA GPU a rank, of those of its host in order; needs liblonghaul_cuda.so, and "
       "a device unless the run is only compiled (nothing of it has been measured on a GPU yet). emulator: the GPU's "
       "kernels run in software, exact to their last wait and thousands of times slower: to try a run's programs "
       "without a GPU.",
       {},
       {"cpu", "cuda", "emulator"}},
      {"device",
       "collectives",
       choice<&E::device, &E::Device::collectives>(),
       "auto",
       "How messages travel between devices. staged: through pinned host memory and the ranks' own transport. nccl: by "
       "NCCL, on the device's stream, within a machine and between machines; one device a rank. push: devices write "
       "into each other's memory, at most 16 ranks of one machine. auto: nccl on NVIDIA "
       "GPUs where libnccl.so.2 can be opened, else staged; staged on the emulator, whose NCCL is one in software. "
       "Sums are in rank order and the same bits with any, but for what training.deterministic=false allows nccl. With "
       "device.type cpu: auto.",
       {},
       {"auto", "staged", "nccl", "push"}},
      {"device", "timeout", member<&E::device, &E::Device::timeout>, "600",
       "Seconds that a device may stay in one collective of nccl or push, or in the making of its communicators, "
       "before the "
       "job is ended with an error that names it: a peer hangs, or never came. A peer that ends or reports an error "
       "is noticed at once. 0: never.",
       at_least(0)},
      {"device", "graphs", member<&E::device, &E::Device::graphs>, "false",
       "Whether a device is given each program of a step as a whole, in one launch, rather than every instruction by "
       "itself: a CUDA graph, captured when the program runs for the second time. Saves time of the host, which "
       "matters where kernels are short; results are the same bits. Between ranks device.collectives must be nccl or "
       "push. Not with device.type cpu, nor with LONGHAUL_CHECK_OPS."},
      {"device",
       "memory",
       member<&E::device, &E::Device::memory>,
       "auto",
       "GiB (2^30 bytes) that a rank's buffers may take; a run whose plan needs more is refused. auto: what "
       "device.profile says; without one nine tenths of a GPU's memory where device.type is cuda and a GPU is there; "
       "else "
       "no run is "
       "refused, and parallelism.keep_gathered counts on three quarters of the host's memory, divided among its ranks.",
       {1e-6, 1e9, false}},
      {"device",
       "host_memory",
       member<&E::device, &E::Device::host_memory>,
       "auto",
       "GiB (2^30 bytes) of its host's memory that a rank may take for what activation_memory.offload moves there; a "
       "run whose plan needs more is refused. auto: what device.profile says, a host's divided among its ranks; "
       "without "
       "one three quarters of the host's memory (or of what its control group allows), divided among its ranks.",
       {1e-6, 1e9, false}},
      {"device", "profile", member<&E::device, &E::Device::profile>, "null",
       "What the machine does in a second, as a JSON file: one of configs/clusters, or one that `longhaul calibrate` "
       "has measured. Prices what the backward pass makes again, gives device.memory, and `longhaul bench step` prints "
       "the time that it predicts. Results are the same bits with any."},
  };
}

}  // namespace longhaul::config
