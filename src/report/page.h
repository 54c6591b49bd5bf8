// The report: one HTML page that needs nothing from elsewhere, drawn by its own script from the data in it.
#pragma once
#include <string>
#include <vector>

#include "report/run_data.h"

namespace longhaul {

/// The whole page: a table and curves of all runs, each in its colour, then the record of each.
std::string report_page(const std::vector<RunData>& runs);

}  // namespace longhaul
