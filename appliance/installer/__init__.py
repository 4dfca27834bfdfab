"""`codeactions install` and `uninstall`: this host with the appliance as services of its systemd, and without."""
