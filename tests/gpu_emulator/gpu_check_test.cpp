// scripts/gpu_check.sh in a bundle of programs that only pretend: what it says of parts that pass, fail, hang, or need
// what the machine has not, and what it does when it is called again.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace longhaul {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

// A machine with one GPU, without PyTorch and compute-sanitizer, and a bundle on it.
class Machine {
 public:
  Machine() {
    char pattern[] = "/tmp/longhaul_gpu_check_XXXXXX";
    folder_ = mkdtemp(pattern);
    fs::create_directories(folder_ / "bin");
    fs::copy_file(LONGHAUL_GPU_CHECK, folder_ / "gpu_check.sh");
    std::ofstream(folder_ / "commit") << "abc\n";
    std::ofstream(folder_ / "liblonghaul_cuda.so");
    for (const char* name : {"cuda_conformance", "test_cuda_kernels", "longhaul_bench_kernels"}) program(name, "");
    program("bin/nvidia-smi", "echo 'GPU 0: a GPU of no kind'");
    program("bin/ldconfig", "echo libcublasLt.so.13 libcublasLt.so.12 libnccl.so.2", false);
    program("bin/python3", "exit 1");
  }
  ~Machine() { fs::remove_all(folder_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// A program that notes that it was called, with which arguments, and does what `script` says.
  void program(const std::string& name, const std::string& script, bool notes = true) const {
    std::ofstream file(folder_ / name);
    file << "#!/bin/bash\n";
    if (notes) file << "echo " << name << " \"$@\" >>" << (folder_ / "calls") << "\n";
    file << script << "\n";
    fs::permissions(folder_ / name, fs::perms::owner_all);
  }
  /// Exit status of gpu_check.sh; `said` and `calls` are those of this call.
  int check(const std::string& arguments) {
    fs::remove(folder_ / "calls");
    const std::string command = "env -i HOME=/nonexistent PATH=" + (folder_ / "bin").string() + ":/usr/bin:/bin bash " +
                                (folder_ / "gpu_check.sh").string() + " " + arguments + " >" +
                                (folder_ / "said").string() + " 2>&1";
    const int status = std::system(command.c_str());
    said = read(folder_ / "said"), calls = read(folder_ / "calls");
    return WEXITSTATUS(status);
  }
  bool passed(const std::string& part) const { return fs::exists(folder_ / "results" / (part + ".passed")); }
  std::string result(const std::string& file) const { return read(folder_ / "results" / file); }

  std::string said, calls;

 private:
  fs::path folder_;
};

bool has(const std::string& text, const std::string& what) {
  return text.find(what) != std::string::npos;
}

}  // namespace

TEST_CASE("the check on a GPU machine runs every kernel test that a GPU can run") {
  const std::string script = read(LONGHAUL_GPU_CHECK);
  const std::regex part("kernel_tests \"\\$1\" [0-9]+ \"([^\"]*)\""), on_gpu(".*/(\\w+)_test\\.cpp");
  const std::set<std::string> files = {"attention",    "collectives", "generic",  "graph",
                                       "memory_bound", "optimizer",   "processes"};  // of test_cuda_kernels
  std::set<std::string> asked, left_out;
  for (auto match = std::sregex_iterator(script.begin(), script.end(), part); match != std::sregex_iterator();
       ++match) {
    std::istringstream list((*match)[1].str());
    for (std::string name; std::getline(list, name, ',');) asked.insert(name);
  }
  REQUIRE(asked.size() > 10);
  const auto matches = [](std::string name, std::string pattern) {
    const bool anywhere = pattern.front() == '*';
    pattern = pattern.substr(anywhere, pattern.find_last_not_of('*') + 1 - anywhere);
    return anywhere ? name.find(pattern) != std::string::npos : name.starts_with(pattern);
  };
  std::set<std::string> found;
  for (const Catch::TestCase& test : Catch::getRegistryHub().getTestCaseRegistry().getAllTests()) {
    std::smatch file;
    const std::string path = test.lineInfo.file;
    if (test.isHidden() || !std::regex_match(path, file, on_gpu) || !files.contains(file[1].str())) continue;
    bool run = false;
    for (const std::string& pattern : asked)
      if (matches(test.name, pattern)) run = true, found.insert(pattern);
    const auto& tags = test.tags;
    if (!run && std::find(tags.begin(), tags.end(), "slow") == tags.end()) left_out.insert(test.name);
  }
  CHECK(left_out == std::set<std::string>());
  CHECK(found == asked);
}

TEST_CASE("the check on a GPU machine: a part that fails or hangs costs only itself, and the next call goes on") {
  Machine machine;
  machine.program("test_cuda_kernels", "case $3 in *Hopper*) sleep 60 ;; *scalars*) echo wrong sums; exit 1 ;; esac");
  CHECK(machine.check("--limit 1") == 1);
  INFO(machine.said);
  CHECK(has(machine.said, "== FAILED: attention generic\n"));
  const std::string summary = machine.result("summary.txt"), table = machine.result("table.md");
  CHECK(has(summary, "== conformance: passed in 0 s\n"));
  CHECK(has(summary, "== attention: FAILED with status 124 after 1 s, its limit\n"));
  CHECK(has(summary, "== generic: FAILED with status 1 after 0 s\n"));
  CHECK(has(summary, "== push: passed in "));
  CHECK(machine.result("generic.log") == "wrong sums\n");
  CHECK(has(table, "| attention | FAILED with status 124 after 1 s, its limit |\n"));
  CHECK(has(table, "commit abc"));
  for (const char* part : {"environment", "conformance", "memory", "push", "bench"}) CHECK(machine.passed(part));
  for (const char* part : {"attention", "generic"}) CHECK_FALSE(machine.passed(part));

  machine.program("test_cuda_kernels", "");
  CHECK(machine.check("") == 0);
  CHECK(has(machine.said, "== conformance: passed before\n"));
  CHECK_FALSE(has(machine.calls, "cuda_conformance"));
  CHECK_FALSE(has(machine.calls, "longhaul_bench_kernels"));
  CHECK(has(machine.calls, "Hopper*"));
  CHECK(has(machine.calls, "scalars*"));
  CHECK_FALSE(has(machine.calls, "AdamW*"));
  CHECK(has(machine.result("table.md"), "| attention | passed in "));
  CHECK_FALSE(has(machine.result("table.md"), "FAILED"));
  CHECK_FALSE(has(machine.result("table.md"), "before"));

  // Named parts run though they have passed.
  CHECK(machine.check("conformance") == 0);
  CHECK(machine.calls == "cuda_conformance\n");
}

TEST_CASE("the check on a GPU machine: what a machine has not is not run, and has not passed") {
  Machine machine;
  CHECK(machine.check("") == 0);
  INFO(machine.said);
  CHECK(has(machine.said, "== sdpa: not run: no Python with PyTorch and CUDA here\n"));
  CHECK(has(machine.said, "== sanitizer: not run: compute-sanitizer is not on this machine\n"));
  CHECK(has(machine.said, "== verify: not run: this bundle has no trainer\n"));
  CHECK(
      has(machine.said,
          "== not run here: shadow-f32 shadow-bf16 verify twice ranks graphs graphs-two sdpa step-1024 pytorch-1024 "));
  CHECK(has(machine.result("table.md"), "| sanitizer | not run: compute-sanitizer is not on this machine |\n"));
  for (const char* part : {"sdpa", "sanitizer", "verify"}) CHECK_FALSE(machine.passed(part));

  // A trainer that writes the same weights: what needs one GPU passes, what needs two is not run.
  const auto trainer = [&](const std::string& weights) {
    machine.program("longhaul",
                    "for word; do case $word in job.folder=*) folder=${word#job.folder=}/export; mkdir -p $folder; "
                    "echo " +
                        weights + " >$folder/model.safetensors ;; esac; done");
  };
  trainer("1");
  CHECK(machine.check("") == 0);
  CHECK(has(machine.said, "== not run here: ranks graphs-two sdpa pytorch-1024 sanitizer\n"));
  CHECK(has(machine.said, "== ranks: not run: one GPU here, and a rank needs one of its own\n"));
  for (const char* part : {"verify", "twice", "graphs"}) CHECK(machine.passed(part));
  CHECK_FALSE(machine.passed("ranks"));
  machine.program("bin/nvidia-smi", "echo 'GPU 0: one'; echo 'GPU 1: another'");
  CHECK(machine.check("ranks graphs-two") == 0);
  CHECK(machine.passed("ranks"));

  // Steps beside PyTorch's, where there is one.
  machine.program("bin/python3",
                  "[[ $1 != *pytorch_step.py ]] || echo '{\"seq\": 1024, \"tokens_per_second\": 500.5}'");
  machine.program("longhaul", "echo 'losses            1.5'; echo 'tokens/s          1001 (median)'");
  CHECK(machine.check("step-1024 pytorch-1024 step-16384") == 0);
  CHECK(has(machine.calls, "pytorch_step.py --device cuda"));
  CHECK(has(machine.result("table.md"), "| step-1024 | 1001 | 2.00x |\n"));
  CHECK(has(machine.result("table.md"), "| step-16384 | 1001 |  |\n| pytorch-1024 | 500.5 | |\n"));

  // Weights that differ from run to run.
  trainer("$RANDOM$RANDOM");
  CHECK(machine.check("twice ranks graphs graphs-two") == 1);
  CHECK(has(machine.said, "== FAILED: twice ranks graphs graphs-two\n"));
}

TEST_CASE("the check on a GPU machine: time that is over, a GPU that is not there, a call that is wrong") {
  Machine machine;
  CHECK(machine.check("--seconds 4") == 3);
  CHECK(has(machine.said, "== no time left for: environment conformance "));
  CHECK(machine.calls == "");
  machine.program("bin/nvidia-smi", "echo no devices were found; exit 6");
  machine.program("cuda_conformance", "echo no device; exit 77");  // the status alone is no reason
  CHECK(machine.check("environment conformance") == 1);
  CHECK(has(machine.said, "== FAILED: environment conformance\n"));
  CHECK(machine.check("adamw") == 2);
  CHECK(has(machine.said, "unknown argument adamw"));
  CHECK(machine.check("cpu-bench") == 2);
  CHECK(machine.check("--seconds") == 2);
}

}  // namespace longhaul
