// cmake --install: what it puts where, that a program of one's own links it, and what shells and man are given.
#include "program.h"

using namespace longhaul::testing;

namespace {

Ended shell(const Workplace& place, const std::string& line) {
  return Program(place / "log", {"/bin/bash", "-c", line}).wait(300);  // compilers on a machine that others use
}

fs::path build_folder() {
  return fs::path(longhaul_command({}).front()).parent_path();
}

}  // namespace

TEST_CASE("an installed Longhaul trains, and a program of one's own does with find_package", "[threads]") {
  const Workplace place;
  const std::string prefix = (place / "prefix").string();
  check_end(shell(place, "cmake --install '" + build_folder().string() + "' --prefix '" + prefix + "' >/dev/null"), 0,
            {});
  const auto holds = [&](const std::string& file) {
    INFO(file);
    CHECK(fs::is_regular_file(prefix + "/" + file));
  };
  for (const char* file :
       {"bin/longhaul", "include/longhaul/longhaul.h", "share/longhaul/experiment.schema.json",
        "share/longhaul/slurm/quickstart.sbatch", "share/longhaul/examples/library/until.cpp",
        "share/longhaul/models/llama-3.1-8b.json", "share/longhaul/clusters/h100-80gb.json",
        "share/doc/longhaul/README.md", "share/doc/longhaul/docs/experiment.md", "share/man/man1/longhaul.1",
        "share/bash-completion/completions/longhaul", "share/zsh/site-functions/_longhaul"})
    holds(file);
  check_end(shell(place,
                  "cd / && PATH='" + prefix + "/bin':$PATH longhaul inspect '" + (place / "model.json").string() + "'"),
            0, {"parameters"});

  const std::string folder = (place / "").string(), example = prefix + "/share/longhaul/examples/library";
  check_end(shell(place, "cmake -G Ninja -S '" + example + "' -B '" + folder + "built' -DCMAKE_PREFIX_PATH='" + prefix +
                             "' >'" + folder + "cmake.log' && cmake --build '" + folder + "built' >>'" + folder +
                             "cmake.log' || { cat '" + folder + "cmake.log'; exit 1; }"),
            0, {});
  const auto until = [&](const std::string& loss, const std::string& more) {
    return shell(place, "cd '" + folder + "' && built/until " + loss + " experiment.yaml job.folder=run " + more);
  };
  // Asked at every step: they are shorter than ranks ask each other by themselves.
  const Ended stopped = until("5.2", "training.steps=400");
  check_end(stopped, 85, {"is enough", "stopped by the program that runs it"});
  const auto losses = losses_of(place / "run");
  REQUIRE(losses.size() > 1);
  REQUIRE(losses.size() < 400);
  for (const auto& [step, loss] : losses)
    if (loss < 5.2) {  // the step that was said
      CHECK_THAT(stopped.output, Catch::Contains("after step " + std::to_string(step) + " of 400 is enough"));
      break;
    }
  check_end(until("0", "training.steps=" + std::to_string(losses.size() + 2)), 0, {"exported the model"});
  CHECK(losses_of(place / "run").size() == losses.size() + 2);
  check_end(until("0", "optimizer.lr=fast"), 1, {"optimizer.lr"});
}

TEST_CASE("shells complete every command, its options and the keys of experiments", "[threads]") {
  const Workplace place;
  const std::string program = longhaul_command({}).front();
  const auto complete = [&](const std::string& words, int word) {
    const Ended ended =
        shell(place, "source <('" + program + "' completion bash); COMP_WORDS=(longhaul " + words +
                         "); COMP_CWORD=" + std::to_string(word) + "; _longhaul; printf '%s\\n' \"${COMPREPLY[@]}\"");
    CHECK(ended.code == 0);
    return ended.output;
  };
  CHECK(complete("tr", 1) == "train\n");
  CHECK(complete("export run --st", 3) == "--step\n");
  CHECK(complete("train my.yaml training.micro", 3) == "training.micro_batch_size=\n");
  CHECK(complete("inspect training.micro", 2) == "\n");  // takes no overrides: files are the shell's default
  CHECK_THAT(complete("bench kernels --", 3), Catch::Contains("--problems"));
  CHECK_THAT(complete("bench ''", 2), Catch::Contains("kernels") && Catch::Contains("step"));

  const Ended manual = shell(place, "'" + program + "' completion man");
  CHECK(manual.code == 0);
  for (const char* text : {".SH NAME", ".SS train", ".SS bench kernels", "\\-\\-max\\-shard\\-size", "LONGHAUL_LOG",
                           ".B 85", "training.seq_len"})
    CHECK_THAT(manual.output, Catch::Contains(text));
  check_end(shell(place, "command -v man >/dev/null || exit 0; '" + program +
                             "' completion man | man --warnings -l - >/dev/null"),
            0, {});
  // zsh is not everywhere; where it is, it must read what it is given.
  check_end(shell(place, "command -v zsh >/dev/null || exit 0; '" + program +
                             "' completion zsh >_longhaul && zsh -n _longhaul"),
            0, {});
  check_end(shell(place, "'" + program + "' completion fish"), 2, {"bash"});
}
