"""`proserve engine ...`: real engines."""



