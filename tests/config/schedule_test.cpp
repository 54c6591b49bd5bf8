#include "config/schedule.h"

#include <catch2/catch.hpp>
#include <cmath>

using namespace longhaul;

namespace {

Experiment scheduled(DecayType type, std::int64_t warmup, std::optional<double> ratio = {}, double floor = 0) {
  Experiment e;
  e.optimizer.lr = 2.0;
  e.training.steps = 10;
  e.lr_scheduler.warmup_steps = warmup;
  e.lr_scheduler.decay_type = type;
  e.lr_scheduler.decay_ratio = ratio;
  e.lr_scheduler.min_lr_factor = floor;
  return e;
}

}  // namespace

TEST_CASE("warm-up is linear, starts above zero and reaches lr at its last step") {
  const Experiment e = scheduled(DecayType::constant, 4);
  CHECK(learning_rate(e, 1) == 0.5);
  CHECK(learning_rate(e, 2) == 1.0);
  CHECK(learning_rate(e, 4) == 2.0);
  for (int step = 5; step <= 12; ++step) CHECK(learning_rate(e, step) == 2.0);
  CHECK(learning_rate(scheduled(DecayType::constant, 0), 1) == 2.0);
  // A run shorter than its warm-up keeps the slope.
  CHECK(learning_rate(scheduled(DecayType::linear, 20), 10) == 1.0);
}

TEST_CASE("linear and cosine fall to the floor one step after the last") {
  const Experiment linear = scheduled(DecayType::linear, 2, {}, 0.1);
  CHECK(learning_rate(linear, 3) == Approx(2.0));  // the first after the warm-up
  CHECK(learning_rate(linear, 7) == Approx(2.0 * (0.1 + 0.9 * 0.5)));
  CHECK(learning_rate(linear, 10) == Approx(2.0 * (0.1 + 0.9 / 8)));
  CHECK(learning_rate(linear, 11) == Approx(0.2));
  CHECK(learning_rate(linear, 1000) == Approx(0.2));
  const Experiment cosine = scheduled(DecayType::cosine, 2);
  CHECK(learning_rate(cosine, 7) == Approx(1.0));
  CHECK(learning_rate(cosine, 5) == Approx(1.0 + std::sqrt(0.5)));
  for (int step = 3; step <= 10; ++step) CHECK(learning_rate(cosine, step) > learning_rate(cosine, step + 1));
  CHECK(learning_rate(cosine, 10) > 0);
}

TEST_CASE("wsd is stable until the last decay_ratio of the steps") {
  const Experiment e = scheduled(DecayType::wsd, 2, 0.4);
  for (int step = 2; step <= 7; ++step) CHECK(learning_rate(e, step) == 2.0);
  CHECK(learning_rate(e, 8) == Approx(1.5));
  CHECK(learning_rate(e, 9) == Approx(1.0));
  CHECK(learning_rate(e, 10) == Approx(0.5));
  // Warm-up and decay that overlap: the decay gives way.
  const Experiment crowded = scheduled(DecayType::wsd, 8, 0.9);
  CHECK(learning_rate(crowded, 8) == 2.0);
  CHECK(learning_rate(crowded, 10) == Approx(1.0));
  CHECK(learning_rate(scheduled(DecayType::wsd, 0, 0.0), 10) == 2.0);
}
