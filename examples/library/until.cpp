// A program of your own on Longhaul: trains until the loss is below a number, then saves and stops.
//
//   cmake -S . -B build -DCMAKE_PREFIX_PATH=~/.local && cmake --build build
//   build/until 2.0 my.yaml [section.key=value ...]
#include <longhaul/longhaul.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

int main(int count, char** words) try {
  if (count < 3) {
    std::fprintf(stderr, "until LOSS EXPERIMENT [section.key=value ...]\n");
    return 2;
  }
  const double enough = std::atof(words[1]);
  std::atomic<bool> stop = false;
  longhaul::RunRequest request{.experiment = words[2], .overrides = {words + 3, words + count}, .ranks = 2};
  request.stop = &stop;
  request.on_step = [&](const longhaul::StepReport& step) {
    if (!step.loss || *step.loss >= enough) return;
    std::printf("until: loss %.4f after step %lld of %lld is enough\n", *step.loss, static_cast<long long>(step.step),
                static_cast<long long>(step.steps));
    stop = true;
  };
  return longhaul::train(request);  // 0: trained to the end; 85: stopped, and goes on when it is called again
} catch (const std::exception& error) {
  std::fprintf(stderr, "until: %s\n", error.what());
  return 1;
}
