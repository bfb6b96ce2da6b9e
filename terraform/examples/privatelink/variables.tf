variable "name" {
  description = "What all of this is named by."
  type        = string
  default     = "orders"
}

variable "code_path" {
  description = "The zip of a release, or of `make package`."
  type        = string
}

variable "hostname" {
  description = "The database's name, such as orders.c9akciq32abc.eu-west-1.rds.amazonaws.com."
  type        = string
}

variable "port" {
  description = "The database's port, on which the load balancer listens, too."
  type        = number
}

variable "database_arns" {
  description = "The database's ARN. At its RDS events the function watches DNS."
  type        = list(string)
  default     = []
}

variable "vpc_id" {
  description = "The VPC of the load balancer."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of that VPC, one in each Availability Zone from which consumers shall be able to connect."
  type        = list(string)
}

variable "database_security_group_id" {
  description = "The database's security group. It gets a rule that admits the load balancer."
  type        = string
}

variable "allowed_principals" {
  description = "ARNs of those who may create an endpoint, such as arn:aws:iam::123456789012:root."
  type        = list(string)
  default     = []
}

variable "acceptance_required" {
  description = "Whether you accept each endpoint before it can connect."
  type        = bool
  default     = true
}

variable "alarm_topic_arn" {
  description = "A topic of yours that CloudWatch may publish to."
  type        = string
  default     = ""
}
