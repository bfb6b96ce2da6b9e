variable "name" {
  description = "What all of this is named by."
  type        = string
  default     = "orders"

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,31}$", var.name))
    error_message = "name must be letters, digits and hyphens, begin with a letter and have at most 32 characters, which are all that a load balancer's name takes."
  }
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
  description = "The database's ARN. At its RDS events alone the function then watches DNS, and not at those of every database in the Region."
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
  description = "A topic of yours that CloudWatch (cloudwatch.amazonaws.com) and PrivateLink (vpce.amazonaws.com) may publish to."
  type        = string
  default     = ""
}

variable "private_dns_name" {
  description = "A name of a domain of yours by which consumers may call their endpoint, such as orders.db.example.com. The output private_dns_record says which TXT record AWS asks for."
  type        = string
  default     = null
}

variable "supported_regions" {
  description = "Other Regions whose consumers may connect."
  type        = list(string)
  default     = []
}
