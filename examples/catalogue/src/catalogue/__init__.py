"""A searchable catalogue of the Python packages installed on this machine: an example of svcframework."""
