// What a run folder says of its run, as a report shows it: the metrics of every step, and the record of every start.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace longhaul {

/// One number a step, where the step has it.
struct Series {
  std::vector<std::int64_t> step;
  std::vector<double> value;
};

/// One start of the program, from run.json; times as they stand there.
struct RunStart {
  std::string begin, end, outcome, reason, commit, hosts;
  std::int64_t from_step = 0, to_step = 0;
  int ranks = 0;
  int ranks_of_process = 1;  ///< in rank 0's process
  std::vector<std::string> decisions, warnings;
};

/// Losses by how much context a token had: the first number of tokens of each bucket, and the mean.
struct PositionCurve {
  std::int64_t step = 0;  ///< after which it was measured
  std::vector<std::int64_t> first;
  std::vector<double> loss;
};

struct RunData {
  std::string name;                      ///< the folder's
  std::map<std::string, Series> series;  ///< by the names of metrics.jsonl; "tokens": trained since the first step,
                                         ///< "planned_memory_bytes": of the ranks in rank 0's process
  /// The newest, by the name of the validation set; "": data.validation_files.
  std::map<std::string, PositionCurve> by_position;
  std::vector<std::pair<std::int64_t, std::string>> skipped;  ///< steps that were not taken, and why
  std::vector<RunStart> starts;
  std::string experiment;  ///< experiment.yaml as it is; "": there is none

  double last(const std::string& name) const;    ///< NaN without any
  double least(const std::string& name) const;   ///< NaN without any
  double median(const std::string& name) const;  ///< NaN without any
};

/// Reads metrics.jsonl, and run.json and experiment.yaml where they are there. Throws Error for a folder without
/// metrics and for a line that is none of metrics, naming file and line; a last line without its end (the run is
/// writing it, or died) is left out.
RunData read_run(const std::filesystem::path& folder);

/// The series with at most `points` (at least 4) of its points: of every stretch of steps the smallest and the largest
/// value, so that no spike is lost.
Series thinned(const Series& series, std::size_t points);

}  // namespace longhaul
