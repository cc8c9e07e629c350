"""Files of records -> what is wrong with which rows."""
