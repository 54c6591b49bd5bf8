// The instruction sets of this build, and which of them this process may use. An instruction set is registered by one
// file, isa_NAME.cpp: what it needs of the processor, which kernels it has, and on its line `// build:` the processor
// that it is built for and the compiler's flags for every other file named *_NAME.cpp. Nothing else lists it.
#pragma once
#include <vector>

namespace longhaul::cpu {

struct AttentionTileKernels;
struct PeakBurst;
struct VectorTable;

struct InstructionSet {
  const char* name;  ///< as in LONGHAUL_ISA, in file names and in logs
  /// Preference: a set with a larger number includes those with smaller ones on the same processor. 0 is "generic",
  /// which every processor has.
  int order;
  /// Whether the processor and the operating system have it.
  bool (*supported)();
  // Constant tables of functions; where one is missing, the next set that has it is taken.
  const VectorTable* vectors = nullptr;
  const AttentionTileKernels* attention_float32 = nullptr;
  const AttentionTileKernels* attention_bfloat16 = nullptr;
  const PeakBurst* peak_float32 = nullptr;
  const PeakBurst* peak_bfloat16 = nullptr;  ///< of dot products of bfloat16 pairs
};

/// A static object in isa_NAME.cpp. That file is compiled for any processor, for it runs on any; so the tables must be
/// constant initialised, for the files that hold them are not.
struct InstructionSetRegistration {
  explicit InstructionSetRegistration(const InstructionSet& set);
};

/// All of this build, the widest first; "generic" is the last.
const std::vector<InstructionSet>& instruction_sets();

/// Whether the processor has it and LONGHAUL_ISA allows it. Throws Error when LONGHAUL_ISA names no instruction set of
/// this build. Reads the environment: not for use in a step.
bool usable(const InstructionSet& set);

/// The widest that is usable.
const InstructionSet& usable_isa();

}  // namespace longhaul::cpu
