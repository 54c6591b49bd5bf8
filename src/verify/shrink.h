// verify --shrink: of an experiment too large for one rank, a small one that is split in the same way. The mesh, the
// strategies, the order of tokens, ZeRO, dtypes, the ratio of heads to KV heads, how windows reach over pieces of the
// sequence and one layer of every kind stay; sizes go.
#pragma once
#include <string>
#include <vector>

#include "run/setup.h"
#include "run/source.h"

namespace longhaul {

/// `large` is a prepared run, and so an experiment that its ranks could train. The result is prepared too; its
/// decisions begin with those of `large` and say what each size became.
RunSetup shrink_run(const RunSetup& large, int world, const Hosts& hosts);

/// The data of a shrunk run: every n-th token of the experiment's files, n the quotient of the sequence lengths, ids
/// modulo the smaller vocabulary, with document ends and loss masks in the same places. Without files: tokens by a
/// counter, with documents of many lengths. Throws Error when the files are too short for the large run. Token ids are
/// not checked: it would read all of a data set.
DataSource open_shrunk_source(const RunSetup& large, const RunSetup& small);

}  // namespace longhaul
