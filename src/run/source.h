// The token files of an experiment, checked by the ranks together and cut into samples.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/mixture.h"
#include "data/packed_tokens.h"
#include "data/sampler.h"
#include "run/data_groups.h"
#include "run/session.h"
#include "run/setup.h"

namespace longhaul {

/// What is counted of samples when data are opened; zero where every label is learned from.
struct SampleCensus {
  std::int64_t without_label = 0;
  std::int64_t cuts = 0, cut_documents = 0;  ///< places where samples cut a packed document, and documents so cut
};

struct DataSource {
  DataGroup group;
  std::unique_ptr<TokenDataset> dataset;
  std::unique_ptr<TokenSource> stream;   ///< what samples are cut from when it is not `dataset`
  std::unique_ptr<PackedTokens> packed;  ///< what they are cut from when data.packing is best_fit
  std::unique_ptr<TokenSource> rest;     ///< what they are cut from when a resumed epoch is cut in another way
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<SequenceLoader> loader;
  SampleCensus census;  ///< of this rank's share of the samples
  /// The sources of a mixture, each as above; the mixture itself has only `stream`, their tokens, and `loader`.
  std::vector<DataSource> parts;
  std::optional<MixtureOrder> order;   ///< of a mixture
  const MixedTokens* mixed = nullptr;  ///< `stream` of a mixture

  /// What samples are cut from.
  const TokenSource& tokens() const {
    return rest     ? *rest
           : packed ? static_cast<const TokenSource&>(*packed)
           : stream ? *stream
                    : static_cast<const TokenSource&>(*dataset);
  }
  /// The next out.size() samples of the run, for `loader`; moves the cursors past them: one a source, made at the first
  /// call when there are none.
  void take(std::vector<SourceCursor>& cursors, std::span<std::int64_t> out) const;

  /// Fills the session's buffers with its rows of micro-batch `micro_batch` of a global batch of samples, in the order
  /// that its ranks hold them.
  void fill(Session& session, const std::vector<std::int64_t>& samples, std::int64_t micro_batch) const;
};

/// Fills the session's buffers with samples, one a row, each in the order that its ranks hold it.
void fill_rows(SequenceLoader& loader, Session& session, std::span<const std::int64_t> samples);

/// How the experiment reads a group's files: those, or the tokens that were made of them.
DatasetOptions dataset_options(const RunSetup& setup, const DataGroup& group);

/// Opens the files; each rank of the world checks its part of the tokens, and counts samples there. Throws Error naming
/// the key and the file.
/// `check` false: no token is looked at and nothing counted.
DataSource open_source(Communicator& world, const RunSetup& setup, const DataGroup& group, bool shuffle,
                       bool check = true);

/// The same of everything that is trained on: data.files, or the mixture of data.sources. Throws Error for a source
/// that ends before its share where `epochs` forbids to read it again.
DataSource open_training(Communicator& world, const RunSetup& setup, bool check = true);

/// Makes a mixture of its parts, or makes it again after their streams have changed.
void mix(const RunSetup& setup, DataSource& source);

/// `source` with its documents packed whole, where data.packing is best_fit; else null. `source` must outlive it.
std::unique_ptr<PackedTokens> pack_documents(const Experiment& experiment, const TokenSource& source);

/// A loader of the experiment's sequence length and packing; `source` must outlive it. Throws Error for packing of data
/// that does not say where documents end.
std::unique_ptr<SequenceLoader> make_loader(const Experiment& experiment, const TokenSource& source);

/// Says what was opened in the log, `what` ("training data") first: sizes, what was guessed, what is left out. Warns of
/// samples without a label. Collective.
void report_source(Communicator& world, const RunSetup& setup, const std::string& what, const DataSource& source);

/// Where the parameters of the first step come from: model.weights, or the random initialisation of model.init_seed.
ParameterSource first_parameters(const RunSetup& setup);

/// Says in the log where first_parameters came from, and warns when a model's folder holds weights that nothing read.
void report_first_parameters(const RunSetup& setup);

}  // namespace longhaul
