"""What is measured by hand; results are checked in beside the scripts with hardware, commit and command."""
