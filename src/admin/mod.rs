//! Health, readiness and metrics for operators. Knows no hub and no DPS.
