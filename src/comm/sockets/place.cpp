// Who a process is, as its environment says.
#include <unistd.h>
#include <xxhash.h>

#include <charconv>
#include <cstring>

#include "base/environment.h"
#include "base/error.h"
#include "comm/sockets/rendezvous.h"

namespace longhaul::sockets {
namespace {

std::string value_of(const char* name) {
  return foreign_variable(name).value_or("");
}

int number_of(const char* name, int least, int most) {
  const std::string text = value_of(name);
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most)
    fail("{} is '{}'; it must be a number from {} to {}", name, text, least, most);
  return number;
}

constexpr int most_ranks = 4096;

void take_rank(Place& place, const char* rank, const char* size) {
  place.size = number_of(size, 1, most_ranks);
  place.rank = number_of(rank, 0, place.size - 1);
}

/// Ports of the range from which the system gives none by itself, eight for each job: one may be taken.
std::vector<int> ports_by(const Token& token) {
  std::uint32_t start = 0;
  std::memcpy(&start, token.data(), sizeof start);
  std::vector<int> ports;
  for (int i = 0; i < 8; ++i)
    ports.push_back(20000 + static_cast<int>((start + 1237U * static_cast<unsigned>(i)) % 10000U));
  return ports;
}

}  // namespace

Token token_of(const std::string& text) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(text.data(), text.size()));
  Token token;
  static_assert(sizeof canonical.digest == std::tuple_size_v<Token>);
  std::memcpy(token.data(), canonical.digest, token.size());
  return token;
}

std::string first_host(const std::string& list) {
  std::string host;
  for (std::size_t i = 0; i < list.size() && list[i] != ','; ++i) {
    if (list[i] != '[') {
      host += list[i];
      continue;
    }
    const std::size_t end = list.find(']', i);
    if (end == std::string::npos) fail("SLURM_STEP_NODELIST is '{}', a list of hosts without its ]", list);
    host += list.substr(i + 1, list.find_first_of(",-]", i + 1) - i - 1);
    i = end;
  }
  if (host.empty()) fail("SLURM_STEP_NODELIST is '{}', which names no host", list);
  return host;
}

Place place_from_environment() {
  Place place;
  const std::string secret = environment("LONGHAUL_JOB_TOKEN");
  std::string job;
  if (!value_of("RANK").empty() && !value_of("WORLD_SIZE").empty()) {
    take_rank(place, "RANK", "WORLD_SIZE");
    place.source = "RANK and WORLD_SIZE";
  } else if (!value_of("SLURM_PROCID").empty() && !value_of("SLURM_STEP_NUM_TASKS").empty()) {
    take_rank(place, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
    place.source = fmt::format("Slurm step {}.{}", value_of("SLURM_JOB_ID"), value_of("SLURM_STEP_ID"));
    job = fmt::format("{} start {}", place.source, value_of("SLURM_RESTART_COUNT"));
    if (value_of("MASTER_ADDR").empty()) place.address = first_host(value_of("SLURM_STEP_NODELIST"));
  } else if (!value_of("OMPI_COMM_WORLD_RANK").empty() && !value_of("OMPI_COMM_WORLD_SIZE").empty()) {
    take_rank(place, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
    place.source = "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE";
  } else if (!value_of("PMI_RANK").empty() && !value_of("PMI_SIZE").empty()) {
    take_rank(place, "PMI_RANK", "PMI_SIZE");
    place.source = "PMI_RANK and PMI_SIZE";
  } else {
    fail(
        "transport sockets: nothing says which of how many processes this is. Start them with srun, or set RANK, "
        "WORLD_SIZE and MASTER_ADDR (the host of rank 0) for each; on one host --ranks N starts them");
  }
  if (const std::string address = value_of("MASTER_ADDR"); !address.empty()) place.address = address;
  if (place.address.empty() && place.size > 1)
    fail(
        "transport sockets: {} say that this is rank {} of {}, and nothing says where rank 0 is: set MASTER_ADDR to "
        "its "
        "host, and MASTER_PORT if 29500 is not free there",
        place.source, place.rank, place.size);
  const bool given = !value_of("MASTER_PORT").empty();
  place.token = token_of(
      fmt::format("{} {} {} {} {} {}", job, place.address, value_of("MASTER_PORT"), place.size, ::getuid(), secret));
  place.ports = given ? std::vector{number_of("MASTER_PORT", 1, 65535)}
                      : (job.empty() ? std::vector{29500} : ports_by(place.token));
  return place;
}

}  // namespace longhaul::sockets
