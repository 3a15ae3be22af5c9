"""Networks: plain torch modules, a file each. They import nothing else of the package."""
