"""`proserve report`: grids of simulations, their results kept and resumed, and the documents made of them."""
