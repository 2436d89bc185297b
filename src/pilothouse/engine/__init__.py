"""Who executes what: the process's identity and its hold on the data folder."""
