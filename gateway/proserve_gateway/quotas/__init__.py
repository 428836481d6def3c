"""What a tenant may use: counters in memory or shared through Valkey or Redis."""
