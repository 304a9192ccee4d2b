"""What of a directive the site allows: directive, site and host in, plan out. Pure."""
