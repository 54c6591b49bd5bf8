// Text that a run trains on with a tokenizer becomes token files before its first step:
//
//   <job.folder>/tokens/<key>.ds, .ds.index, .ds.loss, .ds.metadata   the tokens, as data.format datatrove
//   <job.folder>/tokens/<key>.json                                    what made them, and how many there are
//
// (`longhaul eval` has another folder: RunSetup::tokens_folder.)
//
// The key is a hash of everything that decides them: the tokenizer, how chats are written and what of them is learned,
// the end token, and every file's size and sampled contents (sampled_hash). What is there already is used again, by a
// resumed run as by another experiment in the folder.
#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "run/setup.h"

namespace longhaul {

/// The tokenizer that reads the experiment's text: the file that data.tokenizer names, or for `auto` the one beside
/// model.config. Nothing: bytes. Throws Error for `auto` without one when the vocabulary (256 to 512 ids) is not one
/// of bytes.
std::optional<std::filesystem::path> text_tokenizer(const RunSetup& setup);

/// How the text that is trained on is read. Throws Error as text_tokenizer and load_tokenizer do.
TextReading text_reading(const RunSetup& setup);

/// The tokenizer of the data whatever their format: text_tokenizer, or where they are token files the one that
/// data.tokenizer names or that lies beside model.config; nothing: bytes. Throws Error, which begins with `key`, where
/// nobody knows what the ids stand for.
std::optional<std::filesystem::path> data_tokenizer(const RunSetup& setup, const std::string& key);

/// Tokenizes the files of every group that are text and not read as bytes; dataset_options then names the tokens
/// instead; and fills setup.text. Rank 0 does it, on all cores it may use, and keeps the others informed, who wait; a
/// lock in the folder keeps other runs out. Collective; throws as agree() does.
void tokenize_texts(Communicator& world, RunSetup& setup);

}  // namespace longhaul
